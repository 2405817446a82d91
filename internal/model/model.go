// Package model holds a model: named tensors of float32 that lie one after the other in one flat vector, and its file.
//
// The file is safetensors (github.com/huggingface/safetensors), version of the format as of 2023: eight bytes with the length
// of a JSON header, little endian, the header, the tensors' values, little endian. One model has one file here, its canonical
// form, which is also what the format's own library writes for it: tensors by ascending name, in the header as in the data; no
// metadata, no holes; JSON without white space, padded with spaces to a multiple of eight bytes. So the file's SHA-256 names
// the model, whoever wrote it, and [Read] refuses every other file.
//
//	m := &model.Model{
//		Layout: model.Layout{{Name: "linear.bias", Shape: []int{1}}, {Name: "linear.weight", Shape: []int{1, 13}}},
//		Params: make([]float32, 14),
//	}
//	err := m.Write(w)
//	again, err := model.Read(r, m.Size())
//
// Nothing here limits what a value means; but a model with a NaN or an infinity is neither written nor read.
package model

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math"
)

// Model is a model in memory: Params holds the tensors' values one after the other, as Layout says.
type Model struct {
	Layout Layout
	Params []float32
}

// Digest returns the SHA-256 of the file that [Model.Write] writes: the model's version id. It panics if the layout is not
// valid or does not fit Params, which [Model.Validate] tells.
func (m *Model) Digest() [32]byte {
	h := sha256.New()
	if err := m.write(h); err != nil {
		panic(fmt.Sprintf("model: digest of an impossible model: %v", err))
	}
	return [32]byte(h.Sum(nil))
}

// Validate reports why m is no model: a layout that is not valid or does not fit the number of values.
func (m *Model) Validate() error {
	if err := m.Layout.Validate(); err != nil {
		return err
	}
	if n := m.Layout.Len(); n != len(m.Params) {
		return fmt.Errorf("model has %d values, its layout %d", len(m.Params), n)
	}
	return nil
}

// finite returns an error that names the tensor of the first value that is not finite.
func (m *Model) finite() error { return m.Layout.finite(0, m.Params) }

// UpdateDigest returns SHA-256(salt, values as float32s, little endian), by which a log names an update. The salt, chosen by
// its participant, keeps a guess of the values from being confirmed.
func UpdateDigest(salt [32]byte, values []float32) [32]byte {
	h := NewUpdateDigest(salt)
	if err := writeFloats(h, values); err != nil {
		panic(fmt.Sprintf("model: a hash refused bytes: %v", err))
	}
	return [32]byte(h.Sum(nil))
}

// NewUpdateDigest returns what makes an [UpdateDigest] of the values' bytes as they come.
func NewUpdateDigest(salt [32]byte) hash.Hash {
	h := sha256.New()
	h.Write(salt[:])
	return h
}

// PutFloats writes src into dst, four bytes a value, little endian. dst must have room for 4*len(src) bytes.
func PutFloats(dst []byte, src []float32) {
	dst = dst[:4*len(src)]
	for i, x := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(x))
	}
}

// Floats is the reverse of [PutFloats]: it fills dst from the first 4*len(dst) bytes of src, which must have that many.
func Floats(dst []float32, src []byte) {
	src = src[:4*len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}
