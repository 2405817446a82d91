package dcap

import "encoding/binary"

// attributeDebug is the bit of an enclave's first byte of ATTRIBUTES that lets the host read it.
const attributeDebug = 1 << 1

// An Enclave is the body of an SGX report, 384 bytes (Intel SDM volume 3D, table "Layout of REPORT"; SGX_REPORT_BODY). It is what a quote of
// version 3 is about, and what describes the enclave that made a quote. Byte fields are parts of it.
//
//	0    CPUSVN [16]         64   MRENCLAVE [32]     256  ISVPRODID u16
//	16   MISCSELECT [4]      96   reserved [32]      258  ISVSVN u16
//	20   reserved [12]       128  MRSIGNER [32]      260  CONFIGSVN u16
//	32   ISVEXTPRODID [16]   160  reserved [32]      262  reserved [42]
//	48   ATTRIBUTES [16]     192  CONFIGID [64]      304  ISVFAMILYID [16]
//	                                                 320  REPORTDATA [64]
type Enclave []byte

// CPUSVN returns the processor's security version, of no order that could be compared.
func (e Enclave) CPUSVN() []byte { return e[0:16] }

// MiscSelect returns the 4 bytes that say which extended features the enclave uses.
func (e Enclave) MiscSelect() []byte { return e[16:20] }

// ISVExtProdID returns the extended product id that the enclave's signer gave.
func (e Enclave) ISVExtProdID() []byte { return e[32:48] }

// Attributes returns 8 bytes of flags and 8 bytes of XFRM.
func (e Enclave) Attributes() []byte { return e[48:64] }

// MREnclave returns the measurement of what was loaded.
func (e Enclave) MREnclave() []byte { return e[64:96] }

// MRSigner returns the SHA-256 of the key that signed the enclave.
func (e Enclave) MRSigner() []byte { return e[128:160] }

// ConfigID returns what the host configured the enclave with.
func (e Enclave) ConfigID() []byte { return e[192:256] }

// ISVProdID returns which of its signer's products the enclave is.
func (e Enclave) ISVProdID() uint16 { return binary.LittleEndian.Uint16(e[256:]) }

// ISVSVN returns the security version that the signer gave.
func (e Enclave) ISVSVN() uint16 { return binary.LittleEndian.Uint16(e[258:]) }

// ConfigSVN returns the security version of what the host configured.
func (e Enclave) ConfigSVN() uint16 { return binary.LittleEndian.Uint16(e[260:]) }

// ISVFamilyID returns the family of products that the signer gave.
func (e Enclave) ISVFamilyID() []byte { return e[304:320] }

// ReportData returns the 64 bytes that the enclave put in.
func (e Enclave) ReportData() []byte { return e[320:384] }

// Reserved reports whether all reserved bytes are zero.
func (e Enclave) Reserved() bool {
	return zeros(e[20:32]) && zeros(e[96:128]) && zeros(e[160:192]) && zeros(e[262:304])
}
