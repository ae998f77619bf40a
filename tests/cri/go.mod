module github.com/natless/natless/tests/cri

go 1.26.3

require (
	github.com/natless/natless v0.0.0
	google.golang.org/grpc v1.85.0
	k8s.io/cri-api v0.33.4
)

require (
	github.com/gogo/protobuf v1.3.2 // indirect
	github.com/vishvananda/netlink v1.3.1 // indirect
	github.com/vishvananda/netns v0.0.5 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/natless/natless => ../..
