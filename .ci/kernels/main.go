// Kernels makes the assembly of package aggregate: the one loop that takes a round's updates in, for amd64. Run it at the root of
// the module, as "make generate" does; the same source gives the same bytes. Nothing of it is linked into any program.
package main

import (
	"flag"
	"log"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// unroll is how many vectors are under way at once: as many as hide the time that five dependent instructions take.
const unroll = 4

// vector is what the two kernels differ in.
type vector struct {
	name, doc string
	lanes     int
	register  func() reg.VecVirtual
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("kernels: ")
	for name, value := range map[string]string{"out": "internal/aggregate/add_amd64.s", "stubs": "internal/aggregate/add_stubs_amd64.go", "pkg": "aggregate"} {
		if err := flag.Set(name, value); err != nil {
			log.Fatal(err)
		}
	}
	build.ConstraintExpr("amd64")
	kernel(vector{"addAVX2", "addAVX2 is addLoop in vectors of four; it needs AVX2.", 4, build.YMM})
	kernel(vector{"addAVX512", "addAVX512 is addLoop in vectors of eight; it needs AVX-512F.", 8, build.ZMM})
	build.Generate()
}

// kernel writes one function: for each value x of src, fl(weight*x) is rounded to the grid by adding and subtracting magic, and added
// to dst. Each of the four operations rounds by itself, as in Go: nothing is fused. Values left over go one by one.
func kernel(v vector) {
	build.TEXT(v.name, build.NOSPLIT, "func(dst []float64, src []float32, weight, magic float64)")
	build.Doc(v.doc, "dst must be as long as src.")
	build.Pragma("noescape")
	dst, n := build.Load(build.Param("dst").Base(), build.GP64()), build.Load(build.Param("src").Len(), build.GP64())
	src := build.Load(build.Param("src").Base(), build.GP64())
	one, two := build.Load(build.Param("weight"), build.XMM()), build.Load(build.Param("magic"), build.XMM())
	weight, magic := v.register(), v.register()
	build.VBROADCASTSD(one, weight)
	build.VBROADCASTSD(two, magic)
	loop(v, dst, src, n, weight, magic, unroll, "blocks")
	loop(v, dst, src, n, weight, magic, 1, "vectors")
	rest(dst, src, n, one, two)
	build.VZEROUPPER()
	build.RET()
}

// loop takes count vectors a turn, while so many are left.
func loop(v vector, dst, src, n reg.Register, weight, magic reg.VecVirtual, count int, label string) {
	build.Label(label)
	build.CMPQ(n, operand.U32(count*v.lanes))
	build.JL(operand.LabelRef(label + "Done"))
	x := make([]reg.VecVirtual, count)
	for i := range x {
		x[i] = v.register()
		build.VCVTPS2PD(operand.Mem{Base: src, Disp: 4 * v.lanes * i}, x[i])
	}
	for i := range x {
		build.VMULPD(weight, x[i], x[i])
	}
	for i := range x {
		build.VADDPD(magic, x[i], x[i])
	}
	for i := range x {
		build.VSUBPD(magic, x[i], x[i])
	}
	for i := range x {
		build.VADDPD(operand.Mem{Base: dst, Disp: 8 * v.lanes * i}, x[i], x[i])
	}
	for i := range x {
		build.VMOVUPD(x[i], operand.Mem{Base: dst, Disp: 8 * v.lanes * i})
	}
	build.ADDQ(operand.U32(8*v.lanes*count), dst)
	build.ADDQ(operand.U32(4*v.lanes*count), src)
	build.SUBQ(operand.U32(v.lanes*count), n)
	build.JMP(operand.LabelRef(label))
	build.Label(label + "Done")
}

// rest takes the values that fill no vector.
func rest(dst, src, n reg.Register, weight, magic reg.Register) {
	x := build.XMM()
	build.Label("rest")
	build.CMPQ(n, operand.U32(0))
	build.JE(operand.LabelRef("restDone"))
	build.VXORPS(x, x, x)
	build.VCVTSS2SD(operand.Mem{Base: src}, x, x)
	build.VMULSD(weight, x, x)
	build.VADDSD(magic, x, x)
	build.VSUBSD(magic, x, x)
	build.VADDSD(operand.Mem{Base: dst}, x, x)
	build.VMOVSD(x, operand.Mem{Base: dst})
	build.ADDQ(operand.U32(8), dst)
	build.ADDQ(operand.U32(4), src)
	build.SUBQ(operand.U32(1), n)
	build.JMP(operand.LabelRef("rest"))
	build.Label("restDone")
}
