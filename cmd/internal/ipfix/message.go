// Package ipfix sends flow records, and who owns which ports, to collectors (RFC
// 7011, biflows by RFC 5103, ownership by RFC 8158). What a flow is, and who owns
// what, its callers say.
//
// Messages are written by hand, since the library that is kept (vmware/go-ipfix) has
// no options records, opens connections without a limit of time, and would bring
// DTLS, Kafka and Kubernetes into a privileged daemon. Messages are a list of fields
// (templates.go) and of their values, which other people's collectors judge in tests.
package ipfix

import (
	"encoding/binary"
	"time"
)

const (
	version       = 10
	sizeHeader    = 16
	sizeSetHeader = 4
	setTemplates  = 2
	setOptions    = 3
)

// encoder makes messages of records, and hands them to send.
type encoder struct {
	domain   uint32
	most     int // bytes in a message
	send     func(message []byte) error
	now      func() time.Time
	sequence uint32 // data records in messages before
	buf      []byte
	set      int    // where the set begins that records are added to; 0: none
	records  uint32 // in it
	flushed  uint32 // in the message that is being sent
}

// put adds a record to a set, after sending what leaves no room for it.
func (e *encoder) put(set uint16, record []byte) error {
	need := len(record)
	if e.set == 0 || binary.BigEndian.Uint16(e.buf[e.set:]) != set {
		need += sizeSetHeader
	}
	if len(e.buf) > 0 && len(e.buf)+need > e.most {
		if err := e.flush(); err != nil {
			return err
		}
	}
	if len(e.buf) == 0 {
		e.buf = append(e.buf, make([]byte, sizeHeader)...)
	}
	if e.set == 0 || binary.BigEndian.Uint16(e.buf[e.set:]) != set {
		e.endSet()
		e.set = len(e.buf)
		e.buf = binary.BigEndian.AppendUint16(e.buf, set)
		e.buf = binary.BigEndian.AppendUint16(e.buf, 0)
	}
	e.buf = append(e.buf, record...)
	if set >= firstTemplate {
		e.records++
	}
	return nil
}

func (e *encoder) endSet() {
	if e.set != 0 {
		binary.BigEndian.PutUint16(e.buf[e.set+2:], uint16(len(e.buf)-e.set))
	}
}

// flush sends what there is. What could not be sent is gone, and counted in the
// sequence, by which the collector knows that it lacks it (RFC 7011 3.1).
func (e *encoder) flush() error {
	if len(e.buf) == 0 {
		return nil
	}
	e.endSet()
	b := e.buf
	binary.BigEndian.PutUint16(b, version)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint32(b[4:], uint32(e.now().Unix()))
	binary.BigEndian.PutUint32(b[8:], e.sequence)
	binary.BigEndian.PutUint32(b[12:], e.domain)
	e.sequence += e.records
	e.flushed = e.records
	e.buf, e.set, e.records = e.buf[:0], 0, 0
	return e.send(b)
}
