package socket

import (
	"context"
	"net"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// inFolder is a family whose sockets are files of a folder, by the names of their addresses.
func inFolder(folder string) family {
	return family{
		domain: unix.AF_UNIX,
		write:  func(a Addr) unix.Sockaddr { return &unix.SockaddrUnix{Name: filepath.Join(folder, a.String())} },
		read: func(s unix.Sockaddr) Addr {
			u, ok := s.(*unix.SockaddrUnix)
			if !ok || !strings.HasPrefix(u.Name, folder) {
				return Addr{}
			}
			a, _ := parse(filepath.Base(u.Name))
			return a
		},
	}
}

// ListenIn is Listen with the files of a folder for sockets.
func ListenIn(folder string, a Addr) (net.Listener, error) { return listen(inFolder(folder), a) }

// DialIn is Dial, likewise.
func DialIn(ctx context.Context, folder string, a Addr) (net.Conn, error) {
	return dial(ctx, inFolder(folder), a)
}
