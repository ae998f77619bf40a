package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/natless/natless/cmd/natless-fleet/etcd"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// options say where the fleet's store is.
type options struct {
	endpoints []string
	prefix    string
	tls       transport.TLSInfo
}

func (o *options) flags(f *pflag.FlagSet) {
	f.StringSliceVar(&o.endpoints, "etcd", nil, "`URLs` of etcd, such as https://192.0.2.1:2379,https://192.0.2.2:2379")
	f.StringVar(&o.prefix, "etcd-prefix", "/natless", "`prefix` of the fleet's keys in etcd")
	f.StringVar(&o.tls.TrustedCAFile, "etcd-ca", "", "`file` with the authority of etcd's certificates")
	f.StringVar(&o.tls.CertFile, "etcd-cert", "", "`file` with the certificate to show to etcd")
	f.StringVar(&o.tls.KeyFile, "etcd-key", "", "`file` with its key")
}

// open connects to the store.
func (o *options) open() (fleet.Store, error) {
	if len(o.endpoints) == 0 {
		return nil, errors.New("where is the fleet's store? --etcd names it")
	}
	c := clientv3.Config{Endpoints: o.endpoints, DialTimeout: 10 * time.Second, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second}
	if o.tls.TrustedCAFile != "" || o.tls.CertFile != "" {
		config, err := o.tls.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("etcd: %w", err)
		}
		c.TLS = config
	}
	client, err := clientv3.New(c)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	return etcd.New(client, o.prefix), nil
}
