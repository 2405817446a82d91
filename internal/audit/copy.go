package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"consilium.dev/internal/entry"
)

// read returns the content of a file of at most so many bytes. A copy comes from strangers: what is no plain file, such as a
// pipe that nobody writes to or a link to elsewhere, is not opened.
func read(path string, most int64) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s has more than %d bytes", filepath.Base(path), most)
	}
	return text, err
}

func open(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a plain file", path)
	}
	return os.Open(path)
}

// lines yields the lines of a copy. An error is the last thing that it yields.
func lines(folder string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		f, err := open(filepath.Join(folder, linesFile))
		if err != nil {
			yield(nil, err)
			return
		}
		defer f.Close()
		split(f)(yield)
	}
}

// split yields the lines of r, without their newlines.
func split(r io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		s := bufio.NewScanner(r)
		s.Buffer(make([]byte, 64<<10), entry.MaxLine+1)
		s.Split(wholeLines)
		for s.Scan() {
			if !yield(s.Bytes(), nil) {
				return
			}
		}
		if err := s.Err(); err != nil {
			yield(nil, fmt.Errorf("%s: %w", linesFile, err))
		}
	}
}

// wholeLines splits at newlines and nothing else; a last line without one was cut off.
func wholeLines(data []byte, end bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if end && len(data) > 0 {
		return 0, nil, errors.New("the last line is cut off")
	}
	return 0, nil, nil
}

// strange finds what lies in the folder of a copy and no line names: nobody judged it, and it is not to look as if.
func (a *auditor) strange() {
	for _, at := range []struct {
		folder string
		known  map[string]bool
	}{
		{"", map[string]bool{
			manifestFile: true, checkpointFile: true, linesFile: true, keptFolder: true, epochFolder: len(a.epochs) > 0,
			cosignedFile: len(a.sets.Deciding(a.signed.Size)) > 0,
		}},
		{keptFolder, a.named},
		{epochFolder, a.epochs},
	} {
		all, err := os.ReadDir(filepath.Join(a.folder, at.folder))
		if errors.Is(err, fs.ErrNotExist) && at.folder == epochFolder {
			continue
		}
		if err != nil {
			a.find(-1, "%v", err)
		}
		for _, e := range all {
			if !at.known[e.Name()] {
				a.find(-1, "%s is no part of the copy: no line names it", strings.TrimPrefix(at.folder+"/"+e.Name(), "/"))
			}
			if len(a.report.Findings) >= maxFindings {
				return
			}
		}
	}
}
