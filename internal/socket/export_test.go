package socket

// Parse reads vsock:CID:PORT.
func Parse(address string) (Addr, error) { return parse(address) }
