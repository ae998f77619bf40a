package config

// FastPath reports whether the kernel translates plain packets by itself.
type FastPath string

// The values of offload.
const (
	FastPathAuto     FastPath = "auto"
	FastPathOff      FastPath = "off"
	FastPathRequired FastPath = "required"
)

// UnmarshalText takes auto, off or required.
func (o *FastPath) UnmarshalText(text []byte) error {
	_, err := oneOf(string(text), []string{string(FastPathAuto), string(FastPathOff), string(FastPathRequired)})
	*o = FastPath(text)
	return err
}

func (o FastPath) String() string { return string(o) }
