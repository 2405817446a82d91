package backup

// RecodeContents reads a copy's list and writes it again.
func RecodeContents(text []byte) ([]byte, error) {
	c, objects, err := decodeContents(text)
	if err != nil {
		return nil, err
	}
	return encodeContents(c, objects)
}
