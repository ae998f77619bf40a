package config

// Offload says whether the kernel translates plain packets by itself.
type Offload string

// The values of offload.
const (
	OffloadAuto     Offload = "auto"
	OffloadOff      Offload = "off"
	OffloadRequired Offload = "required"
)

// UnmarshalText takes auto, off or required.
func (o *Offload) UnmarshalText(text []byte) error {
	_, err := oneOf(string(text), []string{string(OffloadAuto), string(OffloadOff), string(OffloadRequired)})
	*o = Offload(text)
	return err
}

func (o Offload) String() string { return string(o) }
