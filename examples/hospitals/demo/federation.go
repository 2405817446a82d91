package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// member is one hospital and the machine that its participant runs on.
type member struct{ name, platform string }

var members = []member{{"cleveland", "sev-snp"}, {"budapest", "sev-snp"}, {"switzerland", "nitro"}, {"longbeach", "nitro"}}

// threshold is how many hospitals must sign the manifest. All four do, since a participant takes a first manifest only with
// its own member's signature.
const threshold = 3

// quorum is how many hospitals must remember and cosign the log.
const quorum = 3

// federate makes keys, machines, the signed manifest and everybody's configuration.
func (d *demo) federate(ctx context.Context) error {
	if err := d.keys(ctx); err != nil {
		return err
	}
	d.step("keys: a governance and an identity key for each of %d hospitals, one for the coordinator, one for the research lead", len(members))
	if err := d.machines(ctx); err != nil {
		return err
	}
	d.step("machines: 3 SEV-SNP and 2 Nitro, SIMULATED under a private root that only this manifest names")
	anchor, err := d.manifest(ctx)
	if err != nil {
		return err
	}
	d.step("manifest: epoch 1, signed by %d hospitals (%d are needed), %s...", len(members), threshold, anchor[:12])
	for _, m := range members {
		for _, file := range [][2]string{{".data", "records.csv"}, {".split.csv", "split.csv"}} {
			if err := d.copyFile(filepath.Join("data", m.name+file[0]), d.path(m.name, file[1])); err != nil {
				return err
			}
		}
	}
	return d.copyFile("plan.yaml", d.path("plan.yaml"))
}

// keys makes everybody's keys.
func (d *demo) keys(ctx context.Context) error {
	err := errors.Join(
		d.word(ctx, "identity key of council", "coordinator", d.path("council"), "--name", "council"),
		d.word(ctx, "key of lead", "person", d.path("lead"), "--name", "lead"))
	for _, m := range members {
		err = errors.Join(err,
			d.word(ctx, "governance key of "+m.name, "governance", d.path("governance", m.name)),
			d.word(ctx, "identity key of "+m.name, "member", d.path(m.name), "--name", m.name))
	}
	return err
}

// word makes something with consilium init, and what that prints the meaning of a word in the hospitals' files.
func (d *demo) word(ctx context.Context, word string, args ...string) (err error) {
	d.words[word], err = d.consilium(ctx, append([]string{"init"}, args...)...)
	return err
}

// machines makes the private root and five machines, which launch the programs that are about to run.
func (d *demo) machines(ctx context.Context) error {
	err := d.word(ctx, "certificates-of-demo", "simulated-root", d.path("root"), "--name", "demo")
	machine := func(word, dir, platform, program string) error {
		return d.word(ctx, word, "simulated-machine", d.path(dir), "--root", d.path("root", "root.json"), "--type", platform,
			"--measure", d.program(program))
	}
	if err == nil {
		err = machine("measurements-of-coordinator", "council", "sev-snp", "coordinator")
	}
	for _, m := range members {
		word := map[string]string{"sev-snp": "measurements-of-participant", "nitro": "pcrs-of-participant"}[m.platform]
		if err == nil {
			err = machine(word, m.name, m.platform, "participant")
		}
	}
	return err
}

// manifest builds, signs and verifies the manifest and returns its digest.
func (d *demo) manifest(ctx context.Context) (string, error) {
	text, built, signed := d.path("manifest.yaml"), d.path("manifest.json"), d.path("manifest.dsse.json")
	if err := d.copyFile("manifest.yaml", text); err != nil {
		return "", err
	}
	anchor, err := d.consilium(ctx, "manifest", "build", text)
	if err != nil {
		return "", err
	}
	given := built
	for _, m := range members {
		if _, err := d.consilium(ctx, "manifest", "sign", given, "--key", d.path("governance", m.name, "governance.key")); err != nil {
			return "", err
		}
		given = signed
	}
	_, err = d.consilium(ctx, "manifest", "verify", signed, "--anchor", anchor)
	d.words["anchor of the manifest"] = anchor
	return anchor, err
}

// configure writes what each hospital, the coordinator's operator and the lead made of the configuration that init gave them.
func (d *demo) configure() error {
	err := errors.Join(
		d.copyFile("council.yaml", d.path("council", "coordinator.yaml")),
		d.copyFile("lead.yaml", d.path("lead", "consilium.yaml")))
	for _, m := range members {
		err = errors.Join(err, d.copyFile(m.name+".yaml", d.path(m.name, "participant.yaml")))
	}
	return err
}

// copyFile copies one of the example's files with its words filled in.
func (d *demo) copyFile(from, to string) error {
	b, err := os.ReadFile(filepath.Join(d.examples, from))
	if err != nil {
		return err
	}
	text := string(b)
	for word, value := range d.words {
		text = strings.ReplaceAll(text, word, value)
	}
	return os.WriteFile(to, []byte(text), 0o600)
}

// start starts the coordinator and the participants.
func (d *demo) start(ctx context.Context) error {
	council, err := d.coordinator(ctx)
	if err != nil {
		return err
	}
	d.step("coordinator: process %d, serving at 127.0.0.1:%d", council.cmd.Process.Pid, d.port)
	started := make([]*process, len(members))
	for i, m := range members {
		log := d.path(m.name, "participant.log")
		if started[i], err = d.launch(m.name, "participant", d.path(m.name, "participant.yaml"), log); err != nil {
			return err
		}
	}
	// The log is not open, and nobody follows, before three witnesses are there.
	for i, m := range members {
		if err := started[i].logged(ctx, "following"); err != nil {
			return err
		}
		d.step("participant: process %d, %s on a %s machine, attested both ways, a witness of the log", started[i].cmd.Process.Pid, m.name, m.platform)
	}
	return nil
}

// portTries bounds how often another port is tried if a free one was taken before the coordinator had it.
const portTries = 5

// coordinator starts the coordinator. Who listens first has the port, and the participants find out by evidence whether that
// is their coordinator.
func (d *demo) coordinator(ctx context.Context) (*process, error) {
	asked := d.port
	for try := 1; ; try++ {
		if asked == 0 {
			var err error
			if d.port, err = freePort(); err != nil {
				return nil, err
			}
		}
		d.words["127.0.0.1:7443"] = "127.0.0.1:" + strconv.Itoa(d.port)
		if err := d.configure(); err != nil {
			return nil, err
		}
		p, err := d.launch("council", "coordinator", d.path("council", "coordinator.yaml"), d.path("council", "coordinator.log"))
		if err != nil {
			return nil, err
		}
		err = p.logged(ctx, "serving")
		if err == nil {
			return p, nil
		}
		switch taken := strings.Contains(err.Error(), "address already in use"); {
		case taken && asked != 0:
			return nil, fmt.Errorf("port %d is in use: name another with --port, or leave --port out", asked)
		case !taken || try == portTries:
			return nil, err
		}
	}
}

// freePort returns a port that is free now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
