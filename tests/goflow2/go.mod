module github.com/natless/natless/tests/goflow2

go 1.26.3

require (
	github.com/natless/natless v0.0.0
	github.com/netsampler/goflow2/v2 v2.2.6
)

require (
	github.com/vishvananda/netlink v1.3.1 // indirect
	github.com/vishvananda/netns v0.0.5 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/natless/natless => ../..
