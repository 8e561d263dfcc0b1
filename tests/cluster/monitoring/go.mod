// What tells whether the component `monitoring` is as Prometheus' operator and Grafana have it. Of the operator nothing
// is compiled.
module nodetls/tests/cluster/monitoring

go 1.26

require (
	github.com/grafana/grafana-foundation-sdk/go v0.0.22
	github.com/prometheus-operator/prometheus-operator v0.86.1
)
