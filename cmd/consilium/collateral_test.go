package main

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptMakers starts a server that speaks the paths of AMD's and Intel's services for the real evidence at $ATTEST, and sets MAKERS to its
// URL, MAKERSADDRESS to its host:port, and DEAD to a URL at which nobody listens.
func scriptMakers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: makers")
	}
	snp := filepath.Join(ts.Getenv("ATTEST"), "sevsnp", "testdata", "vectors", "sevsnp", "genoa-v5-oak")
	tdx := filepath.Join(ts.Getenv("ATTEST"), "tdx", "testdata", "vectors", "tdx", "v5-td15-gotdxguest", "collateral")
	give := func(file, header, chain string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			b, err := os.ReadFile(file)
			if err == nil && header != "" {
				var issuers []byte
				issuers, err = os.ReadFile(filepath.Join(tdx, chain))
				w.Header().Set(header, url.QueryEscape(string(issuers)))
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_, _ = w.Write(b)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /vcek/v1/Genoa/crl", http.NotFoundHandler()) // of AMD's lists none was published with evidence
	mux.Handle("GET /vcek/v1/Genoa/{chip}", give(filepath.Join(snp, "vcek.der"), "", ""))
	mux.Handle("GET /tdx/certification/v4/tcb", give(filepath.Join(tdx, "tcb_info.json"), "TCB-Info-Issuer-Chain", "tcb_info_issuer_chain.pem"))
	mux.Handle("GET /tdx/certification/v4/qe/identity", give(filepath.Join(tdx, "qe_identity.json"), "SGX-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain.pem"))
	mux.Handle("GET /sgx/certification/v4/pckcrl", give(filepath.Join(tdx, "pck_crl.der"), "SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain.pem"))
	mux.Handle("GET /sgx/certification/v4/rootcacrl", give(filepath.Join(tdx, "root_ca_crl.der"), "", ""))
	server, gone := httptest.NewServer(mux), httptest.NewServer(mux)
	gone.Close()
	ts.Value(testKey{}).(testing.TB).Cleanup(server.Close)
	ts.Setenv("MAKERSADDRESS", server.Listener.Addr().String())
	ts.Setenv("MAKERS", server.URL)
	ts.Setenv("DEAD", gone.URL)
}
