package main

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"consilium.dev/internal/attest/measure"
)

// maxImage is the most bytes of a kernel, an initrd or an enclave image, which are held in memory.
const maxImage = 4 << 30

func attestMeasure(a *app) *cobra.Command {
	group := &cobra.Command{
		Use:   "measure",
		Short: "Predict what the evidence of an enclave will say, from the files that it is made of",
		Long: "Measure computes reference values from what you built, so that no first boot has to be trusted. What it prints goes\n" +
			"into a reference set of the manifest.",
	}
	group.AddCommand(measureSNP(a), measureNitro(a))
	return group
}

const measureSNPLong = `Measure sev-snp prints the launch digest, MEASUREMENT of a report, of a guest that QEMU or EC2 starts: the firmware's pages, the
sections that its metadata names, and the state in which each virtual CPU starts (AMD 56860, SNP_LAUNCH_UPDATE). With --kernel
the hashes of a direct boot are among them, for which the firmware must be built (OvmfPkg/AmdSev).

The hypervisor's own choices are measured too. If a report shows another digest, look first at --vcpus and --vcpu-model, then at
--guest-features (SEV_FEATURES: 0x1 is SNP alone; newer versions of KVM turn on more, such as 0x21 with debug swap).`

// measureOptions are the flags of attest measure sev-snp.
type measureOptions struct {
	firmware, kernel, initrd, cmdline string
	vcpus                             int
	model, signature, vmm, features   string
}

func measureSNP(a *app) *cobra.Command {
	var o measureOptions
	cmd := &cobra.Command{
		Use:   "sev-snp --firmware OVMF.fd --vcpus N --vcpu-model MODEL",
		Short: "Predict the launch measurement of a SEV-SNP guest",
		Long:  measureSNPLong,
		Example: "  consilium attest measure sev-snp --firmware OVMF.fd --vcpus 4 --vcpu-model EPYC-v4 \\\n" +
			"    --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0'\n" +
			"  consilium attest measure sev-snp --firmware ovmf_img.fd --vcpus 2 --vmm ec2",
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			guest, err := o.guest()
			if err != nil {
				return err
			}
			digest, err := measure.SNP(guest)
			if err != nil {
				return refusedError("see consilium attest measure sev-snp --help", "%w", err)
			}
			data := struct {
				Measurement string `json:"measurement"`
			}{hex.EncodeToString(digest[:])}
			return a.emit("attest.measure", data, func(w *page) { w.printf("measurements: [%q]\n", data.Measurement) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.firmware, "firmware", "", "OVMF, whole")
	f.StringVar(&o.kernel, "kernel", "", "kernel of a direct boot")
	f.StringVar(&o.initrd, "initrd", "", "initial RAM disk of a direct boot")
	f.StringVar(&o.cmdline, "cmdline", "", "kernel's command line of a direct boot")
	f.IntVar(&o.vcpus, "vcpus", 0, "number of virtual CPUs")
	f.StringVar(&o.model, "vcpu-model", "", "QEMU's model of the virtual CPUs, such as EPYC-v4 or EPYC-Milan")
	f.StringVar(&o.signature, "vcpu-signature", "", "in place of --vcpu-model: CPUID leaf 1's EAX, such as 0x800f12")
	f.StringVar(&o.vmm, "vmm", measure.QEMU, "hypervisor: qemu or ec2")
	f.StringVar(&o.features, "guest-features", "0x1", "SEV_FEATURES of the virtual CPUs")
	return cmd
}

// guest reads what the flags name.
func (o *measureOptions) guest() (measure.Guest, error) {
	g := measure.Guest{Cmdline: o.cmdline, VCPUs: o.vcpus, VMM: o.vmm}
	if o.firmware == "" {
		return g, usageError("name OVMF with --firmware", "what should be measured?")
	}
	var err error
	if g.CPU, err = o.cpu(); err != nil {
		return g, err
	}
	if g.Features, err = strconv.ParseUint(o.features, 0, 64); err != nil || g.Features == 0 {
		return g, usageError("write it as 0x1", "--guest-features %q is no set of bits", o.features)
	}
	for _, of := range []struct {
		path string
		dst  *[]byte
	}{{o.firmware, &g.Firmware}, {o.kernel, &g.Kernel}, {o.initrd, &g.Initrd}} {
		if of.path == "" {
			continue
		}
		if *of.dst, err = readLimited(of.path, maxImage, "is it a kernel, or an image of a disk?"); err != nil {
			return g, err
		}
	}
	return g, nil
}

// cpu returns the signature of the virtual CPUs. EC2 does not measure it.
func (o *measureOptions) cpu() (uint32, error) {
	switch {
	case o.model != "" && o.signature != "":
		return 0, usageError("name one of them", "--vcpu-model and --vcpu-signature say the same in two ways")
	case o.model != "":
		signature, err := measure.Signature(o.model)
		if err != nil {
			return 0, usageError("or give its signature with --vcpu-signature", "--vcpu-model: %w", err)
		}
		return signature, nil
	case o.signature != "":
		signature, err := strconv.ParseUint(o.signature, 0, 32)
		if err != nil {
			return 0, usageError("write it as 0x800f12", "--vcpu-signature %q is no number of 32 bits", o.signature)
		}
		return uint32(signature), nil
	case o.vmm == measure.EC2:
		return 0, nil
	}
	return 0, usageError("name it with --vcpu-model, as in QEMU's -cpu", "the model of the virtual CPUs is part of what is measured")
}

func measureNitro(a *app) *cobra.Command {
	var role, instance string
	cmd := &cobra.Command{
		Use:   "nitro IMAGE.eif",
		Short: "Predict the registers of a Nitro enclave",
		Long: "Measure nitro prints PCR0 (the image), PCR1 (kernel and boot ramdisk), PCR2 (application) and, of a signed image, PCR8\n" +
			"(the signing certificate). --role adds PCR3, of an IAM role's ARN; --instance adds PCR4, of a parent instance's id.",
		Args: oneArgument("image"),
		RunE: func(_ *cobra.Command, args []string) error {
			image, err := readLimited(args[0], maxImage, "is it an enclave image file?")
			if err != nil {
				return err
			}
			registers, err := measure.EIF(image)
			if err != nil {
				return refusedError("name what nitro-cli build-enclave wrote", "%s: %w", args[0], err)
			}
			if role != "" {
				registers[3] = measure.Role(role)
			}
			if instance != "" {
				registers[4] = measure.Instance(instance)
			}
			data := struct {
				PCRs map[int]string `json:"pcrs"`
			}{map[int]string{}}
			var list []string
			for _, index := range slices.Sorted(maps.Keys(registers)) {
				value := registers[index]
				data.PCRs[index] = hex.EncodeToString(value[:])
				list = append(list, fmt.Sprintf("%d: %q", index, data.PCRs[index]))
			}
			return a.emit("attest.measure", data, func(w *page) { w.printf("pcrs: {%s}\n", strings.Join(list, ", ")) })
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "ARN of the parent instance's IAM role")
	cmd.Flags().StringVar(&instance, "instance", "", "id of the parent instance")
	return cmd
}
