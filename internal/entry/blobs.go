package entry

// Blobs returns the blobs that a fact names. A later [Dropped] may have deleted some. What no fact names nobody needs: it was stored, and the fact that was to name it was
// never written.
func Blobs(f Fact) []Blob {
	var all []Blob
	add := func(b *Blob) {
		if b != nil {
			all = append(all, *b)
		}
	}
	switch f := f.(type) {
	case ManifestAdopted:
		if f.Enclave != nil {
			add(&f.Enclave.Evidence)
		}
	case HandedOver:
		add(&f.Cosigned)
	case Booted:
		add(&f.Evidence)
	case Admitted:
		add(&f.Kept)
	case RunCreated:
		add(f.Initial)
	case RoundOpened:
		add(f.Base)
	case RoundClosed:
		add(&f.Blob)
		add(f.State)
	}
	return all
}
