// Package consiliumv1 is what a coordinator, its participants and people say to each other over the attested channel: the
// code made from consilium.proto by "make generate". Its types end at the actors' doors (floor 4 of the house): nothing below
// knows them, and nothing of them is stored. wire_test.go sees to it that the wire only grows.
package consiliumv1
