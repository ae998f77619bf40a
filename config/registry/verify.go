package registry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// How a file of bbolt's is laid out (its internal/common: page.go, meta.go,
// bucket.go). bbolt trusts what it reads: a damaged page makes it panic, partly
// in a goroutine of its own, where nobody can recover. So the whole tree is
// walked here first, by reading, which cannot fault as a mapped file can.
const (
	pageHeader    = 16 // id 8, flags 2, count 2, overflow 4
	elementSize   = 16 // of a leaf or a branch
	flagBranch    = 0x01
	flagLeaf      = 0x02
	flagMeta      = 0x04
	flagFreelist  = 0x10
	elementBucket = 0x01 // of a leaf's element: its value is a bucket
	bucketHeader  = 16   // root 8, sequence 8
	metaSize      = 64   // magic 4, version 4, page size 4, flags 4, root 16, freelist 8, pages 8, transaction 8, checksum 8
	metaMagic     = 0xED0CDAED
	metaVersion   = 2
	noFreelist    = ^uint64(0) // of meta: the free pages are found by a walk
	maxDepth      = 64
	maxFaults     = 8 // that are told
)

var native = binary.NativeEndian

// meta is what one of the two first pages says.
type meta struct {
	pageSize                           int
	root, freelist, pages, transaction uint64
}

// walker walks the pages of a file. What is wrong is noted in faults, and what
// hangs on it left out.
type walker struct {
	file     io.ReaderAt
	meta     meta
	seen     []bool // by page
	buf      []byte // for a leaf in a bucket, below which there are no pages
	inBucket bool
	faults   []error
	// visit is told each key and value of the buckets at the top.
	visit func(bucket string, key, value []byte)
}

func (w *walker) fault(format string, args ...any) {
	if len(w.faults) < maxFaults {
		w.faults = append(w.faults, fmt.Errorf(format, args...))
	}
}

// verify says what is wrong with the structure of a file, or nil.
func verify(file io.ReaderAt, size int64) error {
	w := walker{file: file, visit: func(string, []byte, []byte) {}}
	w.walk(size)
	return errors.Join(w.faults...)
}

// walk walks from the newer of the two metas. One that is damaged may have been
// the newer: what was answered last might be missing.
func (w *walker) walk(size int64) {
	metas, err := readMetas(w.file)
	if err != nil {
		w.fault("%w", err)
	}
	if len(metas) == 0 {
		return
	}
	w.meta = metas[0]
	if len(metas) == 2 && metas[1].transaction > w.meta.transaction {
		w.meta = metas[1]
	}
	if w.meta.pages > uint64(size)/uint64(w.meta.pageSize) {
		w.fault("it has %d bytes, and %d pages of %d: it was cut short", size, w.meta.pages, w.meta.pageSize)
		w.meta.pages = uint64(size) / uint64(w.meta.pageSize)
	}
	w.seen = make([]bool, w.meta.pages)
	for i := range min(2, len(w.seen)) {
		w.seen[i] = true
	}
	w.page(w.meta.root, bounds{}, func(key, value []byte, isBucket bool) {
		if !isBucket {
			w.fault("key %q is in no bucket", key)
			return
		}
		w.bucket(string(key), value)
	}, 0)
	w.freelist()
}

// readMetas gives the metas that are whole; the error says what is wrong with
// another.
func readMetas(file io.ReaderAt) (metas []meta, err error) {
	m, err0 := readMeta(file, 0, 0)
	if err0 == nil {
		metas = append(metas, m)
	}
	sizes := []int{m.pageSize}
	for size := 1024; err0 != nil && size <= 1<<16; size *= 2 {
		sizes = append(sizes, size)
	}
	err1 := errors.New("page 1: is no second beginning of a registry")
	for _, size := range sizes {
		if size == 0 {
			continue
		}
		m, err := readMeta(file, int64(size), 1)
		if err == nil && m.pageSize != size {
			err = fmt.Errorf("page 1: is of pages of %d bytes", m.pageSize)
		}
		if err == nil {
			metas, err1 = append(metas, m), nil
			break
		}
		if len(sizes) == 1 {
			err1 = err
		}
	}
	if err0 == nil && err1 == nil && metas[0].transaction+1 != metas[1].transaction && metas[1].transaction+1 != metas[0].transaction {
		err1 = fmt.Errorf("pages 0 and 1 are of changes %d and %d, which are not neighbours", metas[0].transaction, metas[1].transaction)
	}
	return metas, errors.Join(err0, err1)
}

func readMeta(file io.ReaderAt, at int64, id uint64) (m meta, err error) {
	var b [pageHeader + metaSize]byte
	if _, err := file.ReadAt(b[:], at); err != nil {
		return m, fmt.Errorf("page %d: %w", id, err)
	}
	body := b[pageHeader:]
	sum := fnv.New64a()
	sum.Write(body[:metaSize-8])
	pageSize := native.Uint32(body[8:])
	switch {
	case native.Uint32(body) != metaMagic:
		return m, fmt.Errorf("page %d: is no beginning of a registry", id)
	case native.Uint32(body[4:]) != metaVersion:
		return m, fmt.Errorf("page %d: is of version %d of the file's format, not %d", id, native.Uint32(body[4:]), metaVersion)
	case native.Uint64(body[metaSize-8:]) != sum.Sum64():
		return m, fmt.Errorf("page %d: its checksum is wrong", id)
	case native.Uint64(b[:]) != id || native.Uint16(b[8:]) != flagMeta:
		return m, fmt.Errorf("page %d: says that it is another", id)
	case native.Uint64(body[48:])%2 != id:
		return m, fmt.Errorf("page %d: is of change %d, which belongs on the other", id, native.Uint64(body[48:]))
	case pageSize < 1024 || pageSize > 1<<16 || pageSize&(pageSize-1) != 0:
		return m, fmt.Errorf("page %d: pages of %d bytes", id, pageSize)
	}
	return meta{pageSize: int(pageSize), root: native.Uint64(body[16:]), freelist: native.Uint64(body[32:]),
		pages: native.Uint64(body[40:]), transaction: native.Uint64(body[48:])}, nil
}

// bounds are the keys that may be in a page: not before least, and before most.
// nil: any.
type bounds struct{ least, most []byte }

func (b bounds) contain(key []byte) bool {
	return (b.least == nil || bytes.Compare(key, b.least) >= 0) && (b.most == nil || bytes.Compare(key, b.most) < 0)
}

// read reads a page with what it runs over into, and marks it. nil: there is
// something wrong with it.
func (w *walker) read(id uint64) []byte {
	if id < 2 || id >= w.meta.pages {
		w.fault("page %d: does not exist, and is pointed at", id)
		return nil
	}
	size := uint64(w.meta.pageSize)
	if w.buf == nil {
		w.buf = make([]byte, size)
	}
	b := w.buf
	if _, err := w.file.ReadAt(b, int64(id*size)); err != nil {
		w.fault("page %d: %w", id, err)
		return nil
	}
	n := uint64(native.Uint32(b[12:])) + 1
	switch {
	case native.Uint64(b) != id:
		w.fault("page %d: says that it is page %d", id, native.Uint64(b))
		return nil
	case n > w.meta.pages-id:
		w.fault("page %d: runs over the end", id)
		return nil
	}
	for i := id; i < id+n; i++ {
		if w.seen[i] {
			w.fault("page %d: is pointed at twice", i)
			return nil
		}
		w.seen[i] = true
	}
	switch {
	case n > 1:
		b = make([]byte, n*size)
		if _, err := w.file.ReadAt(b, int64(id*size)); err != nil {
			w.fault("page %d: %w", id, err)
			return nil
		}
	case !w.inBucket || native.Uint16(b[8:]) != flagLeaf:
		b = bytes.Clone(b) // pages below it are read while it is in use
	}
	return b
}

// page walks a page and those below it.
func (w *walker) page(id uint64, in bounds, visit func(key, value []byte, isBucket bool), depth int) {
	b := w.read(id)
	switch {
	case b == nil:
	case depth > maxDepth:
		w.fault("page %d: is %d pages deep", id, depth)
	case native.Uint16(b[8:]) == flagLeaf:
		w.leaf(fmt.Sprintf("page %d", id), b, in, visit)
	case native.Uint16(b[8:]) == flagBranch:
		w.branch(id, b, in, visit, depth)
	default:
		w.fault("page %d: is neither leaf nor branch, but %#x", id, native.Uint16(b[8:]))
	}
}

// elements gives where the elements of a page begin and which bytes they name.
// Their keys must ascend, and be within the bounds.
func (w *walker) elements(where string, b []byte, in bounds, parts func(element []byte) (pos, key, value uint32),
	each func(i int, element, key, value []byte)) {
	n := int(native.Uint16(b[10:]))
	first := pageHeader + n*elementSize
	if first > len(b) {
		w.fault("%s: has no room for %d keys", where, n)
		return
	}
	var before []byte
	for i := range n {
		at := pageHeader + i*elementSize
		pos, k, v := parts(b[at : at+elementSize])
		from := uint64(at) + uint64(pos)
		if from < uint64(first) || from+uint64(k)+uint64(v) > uint64(len(b)) {
			w.fault("%s: key %d lies outside", where, i)
			return
		}
		key := b[from : from+uint64(k)]
		if len(key) == 0 || i > 0 && bytes.Compare(before, key) >= 0 || !in.contain(key) {
			w.fault("%s: key %d is out of order", where, i)
			return
		}
		before = key
		each(i, b[at:at+elementSize], key, b[from+uint64(k):from+uint64(k)+uint64(v)])
	}
}

func (w *walker) leaf(where string, b []byte, in bounds, visit func(key, value []byte, isBucket bool)) {
	w.elements(where, b, in, func(e []byte) (pos, key, value uint32) {
		return native.Uint32(e[4:]), native.Uint32(e[8:]), native.Uint32(e[12:])
	}, func(i int, e, key, value []byte) {
		flags := native.Uint32(e)
		if flags > elementBucket {
			w.fault("%s: key %d has flags %#x", where, i, flags)
			return
		}
		visit(key, value, flags == elementBucket)
	})
}

func (w *walker) branch(id uint64, b []byte, in bounds, visit func(key, value []byte, isBucket bool), depth int) {
	type child struct {
		id uint64
		bounds
	}
	var children []child
	w.elements(fmt.Sprintf("page %d", id), b, in, func(e []byte) (pos, key, value uint32) {
		return native.Uint32(e), native.Uint32(e[4:]), 0
	}, func(_ int, e, key, _ []byte) {
		if n := len(children); n > 0 {
			children[n-1].most = key
		}
		children = append(children, child{native.Uint64(e[8:]), bounds{key, in.most}})
	})
	if len(children) == 0 {
		w.fault("page %d: is a branch that leads nowhere", id)
	}
	for _, c := range children {
		w.page(c.id, c.bounds, visit, depth+1)
	}
}

// bucket walks a bucket: its pages, or the one that is in its value.
func (w *walker) bucket(name string, value []byte) {
	visit := func(key, value []byte, isBucket bool) {
		if isBucket {
			w.fault("bucket %q: has another in it", name)
			return
		}
		w.visit(name, key, value)
	}
	switch {
	case len(value) < bucketHeader:
		w.fault("bucket %q: its head is cut short", name)
	case native.Uint64(value) != 0:
		w.inBucket = true
		w.page(native.Uint64(value), bounds{}, visit, 0)
		w.inBucket = false
	case len(value) < bucketHeader+pageHeader || native.Uint16(value[bucketHeader+8:]) != flagLeaf:
		w.fault("bucket %q: is neither here nor elsewhere", name)
	default:
		w.leaf(fmt.Sprintf("bucket %q", name), value[bucketHeader:], bounds{}, visit)
	}
}

// freelist looks at the list of free pages, which files of before 2026 have: one
// that names a page in use would have it overwritten.
func (w *walker) freelist() {
	if w.meta.freelist == noFreelist {
		return
	}
	b := w.read(w.meta.freelist)
	if b == nil {
		return
	}
	if native.Uint16(b[8:]) != flagFreelist {
		w.fault("page %d: is no list of free pages", w.meta.freelist)
		return
	}
	n, at := uint64(native.Uint16(b[10:])), pageHeader
	if n == 0xffff { // the number is too great for its place, and the first entry
		n, at = native.Uint64(b[at:]), at+8
	}
	if n > uint64(len(b)-at)/8 {
		w.fault("page %d: has no room for %d free pages", w.meta.freelist, n)
		return
	}
	for i := range n {
		free := native.Uint64(b[uint64(at)+8*i:])
		if free < 2 || free >= w.meta.pages || w.seen[free] {
			w.fault("page %d: says that page %d is free", w.meta.freelist, free)
			return
		}
		w.seen[free] = true
	}
}
