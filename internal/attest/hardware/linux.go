package hardware

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/go-sev-guest/client/linuxabi"
	"github.com/hf/nsm"
	"golang.org/x/sys/unix"
)

// maxRead is the most bytes of a file that are read. A kernel's report has at most 32 KiB, an event log 128 KiB.
const maxRead = 256 << 10

// Linux is the operating system that we run on; all paths are below the folder root.
func Linux(root string) System {
	return System{
		Files: files(root),
		Guest: func(device string) (Guest, error) {
			f, err := os.OpenFile(filepath.Join(root, device), os.O_RDWR, 0)
			if err != nil {
				return nil, err
			}
			return &sevGuest{f}, nil
		},
		NSM: func(device string) (NSM, error) {
			s, err := nsm.OpenSession(nsm.Options{
				Open:    func() (nsm.FileDescriptor, error) { return os.Open(filepath.Join(root, device)) },
				Syscall: syscall.Syscall,
			})
			if err != nil {
				return nil, err // s is not nil
			}
			return s, nil
		},
	}
}

// files are those below a folder. It fits the library's client; paths come back as they were given.
type files string

func (f files) at(name string) string { return filepath.Join(string(f), name) }

func (f files) MkdirTemp(dir, pattern string) (string, error) {
	name, err := os.MkdirTemp(f.at(dir), pattern)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(name)), nil
}

func (f files) ReadFile(name string) ([]byte, error) {
	file, err := os.Open(f.at(name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxRead+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxRead {
		return nil, fmt.Errorf("%s: more than %d bytes", name, maxRead)
	}
	return text, nil
}

// WriteFile writes to a file that is there. The kernel takes an attribute at once, in one write, and a binary one when it is closed.
func (f files) WriteFile(name string, text []byte) error {
	file, err := os.OpenFile(f.at(name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}

func (f files) ReadDir(name string) ([]os.DirEntry, error) { return os.ReadDir(f.at(name)) }

// RemoveAll removes a report's folder. What is in one is the kernel's and goes with it.
func (f files) RemoveAll(name string) error { return os.Remove(f.at(name)) }

// sevGuest is the real device.
type sevGuest struct{ file *os.File }

func (g *sevGuest) Ioctl(command uintptr, req *linuxabi.SnpUserGuestRequest) error {
	arg := req.ABI()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, g.file.Fd(), command, uintptr(arg.Pointer()))
	err := arg.Finish(req) // also keeps arg from being collected before the call is done
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return err
}

func (g *sevGuest) Close() error { return g.file.Close() }
