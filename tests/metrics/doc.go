// Package metrics proves, with a real Prometheus that scrapes a real natlessd,
// that the metrics are right and that every expression of the alerts and of the
// dashboard in config/deploy means something. There is nothing but tests.
package metrics
