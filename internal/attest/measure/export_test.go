package measure

// Section is a section of a firmware's metadata.
type Section struct {
	GPA, Size uint64
	Kind      uint32
}

// From goes on from the digest of a firmware's pages, of which collections of known values give no more.
func From(firmwareDigest [48]byte, sections []Section, resetEIP uint32, table uint64, g Guest) ([48]byte, error) {
	f := &firmware{resetEIP: resetEIP, table: table}
	for _, s := range sections {
		f.sections = append(f.sections, section{s.GPA, s.Size, s.Kind})
	}
	return digest(firmwareDigest).guest(&g, f)
}
