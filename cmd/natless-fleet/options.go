package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/natless-fleet/etcd"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
	"github.com/natless/natless/cmd/natless-fleet/kube"
)

// options say where the fleet's store is.
type options struct {
	endpoints []string
	prefix    string
	tls       transport.TLSInfo

	kubeconfig string
	inCluster  bool
	namespace  string

	credentials string

	output   string // text or json
	patience time.Duration
	begun    cli.Begun
	noise    *lastNoise // of etcd's client; nil: it goes to the log
}

func (o *options) flags(f *pflag.FlagSet) {
	f.StringSliceVar(&o.endpoints, "etcd", nil, "`URLs` of etcd, such as https://192.0.2.1:2379,https://192.0.2.2:2379")
	f.StringVar(&o.prefix, "etcd-prefix", "/natless", "`prefix` of the fleet's keys in etcd")
	f.StringVar(&o.tls.TrustedCAFile, "etcd-ca", "", "`file` with the authority of etcd's certificates")
	f.StringVar(&o.tls.CertFile, "etcd-cert", "", "`file` with the certificate to show to etcd")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "`file` that says where the Kubernetes API is, instead of etcd")
	f.BoolVar(&o.inCluster, "in-cluster", false, "the Kubernetes API of the cluster that this runs in, instead of etcd")
	f.StringVar(&o.namespace, "namespace", "kube-system", "`namespace` of the Lease by which controllers agree")
	f.StringVar(&o.credentials, "credentials", "", "`folder` with ca.pem, cert.pem and key.pem for etcd, or kubeconfig: where no other flag names them")
	f.StringVar(&o.tls.KeyFile, "etcd-key", "", "`file` with its key")
}

// found takes the files that --credentials has, where no flag names them. systemd puts the
// name of a credential in front of those of a folder.
func (o *options) found() {
	if o.credentials == "" {
		return
	}
	for name, to := range map[string]*string{"ca.pem": &o.tls.TrustedCAFile, "cert.pem": &o.tls.CertFile, "key.pem": &o.tls.KeyFile, "kubeconfig": &o.kubeconfig} {
		for _, file := range []string{name, "fleet_" + name} {
			path := filepath.Join(o.credentials, file)
			if _, err := os.Stat(path); err == nil && *to == "" && (name != "kubeconfig" || len(o.endpoints) == 0 && !o.inCluster) {
				*to = path
			}
		}
	}
}

// open connects to the store.
func (o *options) open() (fleet.Store, error) {
	o.found()
	switch stores := len(o.endpoints) > 0; {
	case o.kubeconfig != "" && o.inCluster, stores && (o.kubeconfig != "" || o.inCluster):
		return nil, cli.Misuse("--etcd, --kubeconfig, --in-cluster: one of them names the fleet's store")
	case o.kubeconfig != "" || o.inCluster:
		c, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
		if err != nil {
			return nil, err
		}
		return kube.New(c, o.namespace)
	case !stores:
		return nil, cli.Misuse("where is the fleet's store? --etcd, --kubeconfig or --in-cluster names it, or %s", environment)
	}
	c := clientv3.Config{Endpoints: o.endpoints, DialTimeout: 10 * time.Second, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second}
	again := backoff.DefaultConfig // which comes to two minutes, for which nobody would hear that etcd is back
	again.MaxDelay = time.Second
	c.DialOptions = []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: c.DialTimeout})}
	if o.tls.TrustedCAFile != "" || o.tls.CertFile != "" {
		config, err := o.tls.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("etcd: %w", err)
		}
		c.TLS = config
	}
	if o.noise != nil {
		c.Logger = zap.New(o.noise)
	}
	client, err := clientv3.New(c)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	return etcd.New(client, o.prefix), nil
}
