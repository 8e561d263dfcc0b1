//! How long the policy compiler takes: `cargo bench --package nodetls --bench compile`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use nodetls::policy::{CaName, CaObject, Compiler, Installation, ObjectName, Objects, compile};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// As the programs have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NAMESPACES: usize = 100;
/// Each with two ports, and a policy for the Service and another for one of its ports.
const SERVICES: usize = 5_000;
/// Of the Services; each has so many endpoints.
const HEADLESS: usize = 50;
const ENDPOINTS: usize = 100;
const RUNS: usize = 20;

fn read<T: DeserializeOwned>(object: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(object).unwrap())
}

fn namespace(service: usize) -> String {
    format!("namespace-{}", service % NAMESPACES)
}

fn ca() -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&KeyPair::generate().unwrap());
    certificate.unwrap().pem()
}

fn ca_object(pem: &str) -> CaObject {
    ConfigMap::clone(&read(json!({"data": {"ca.crt": pem}}))).into()
}

fn service(number: usize, port: u16) -> Value {
    let ip = match number < HEADLESS {
        true => "None".to_owned(),
        false => format!("10.96.{}.{}", number / 250, number % 250),
    };
    json!({
        "metadata": {"namespace": namespace(number), "name": format!("service-{number}"), "uid": number.to_string()},
        "spec": {
            "clusterIP": ip, "selector": {"app": "web"},
            "ports": [
                {"name": "https", "port": port, "targetPort": 8443, "protocol": "TCP"},
                {"name": "grpc", "port": 9443, "targetPort": 9443, "protocol": "TCP"},
            ],
        },
    })
}

fn slice(number: usize, endpoints: usize) -> Value {
    let endpoint =
        |i| json!({"addresses": [format!("10.{}.{}.{}", 100 + number / 250, number % 250, i)]});
    json!({
        "metadata": {"labels": {
            "kubernetes.io/service-name": format!("service-{number}"), "service.kubernetes.io/headless": "",
        }},
        "addressType": "IPv4", "ports": [{"name": "https", "port": 8443}, {"name": "grpc", "port": 9443}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}

fn policy(number: usize, section: Option<&str>, hostname: &str) -> Value {
    let mut target = json!({"group": "", "kind": "Service", "name": format!("service-{number}")});
    if let Some(section) = section {
        target["sectionName"] = section.into();
    }
    json!({
        "metadata": {"uid": number.to_string(), "generation": 1, "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {
            "targetRefs": [target],
            "validation": {
                "hostname": hostname,
                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}],
            },
        },
    })
}

fn objects() -> Objects {
    let mut objects = Objects::default();
    let pem = ca();
    for number in 0..NAMESPACES {
        let name = CaName::config_map(namespace(number), "ca");
        objects.ca_objects.insert(name, ca_object(&pem));
    }
    for number in 0..SERVICES {
        let name = |kind: &str| ObjectName::new(namespace(number), format!("{kind}-{number}"));
        let host = format!("service-{number}.example.com");
        objects
            .services
            .insert(name("service"), read(service(number, 443)));
        for (kind, section) in [("all", None), ("grpc", Some("grpc"))] {
            let policy = read(policy(number, section, &host));
            objects.policies.insert(name(kind), policy);
        }
        if number < HEADLESS {
            let slice = read(slice(number, ENDPOINTS));
            objects.endpoint_slices.insert(name("slice"), slice);
        }
    }
    objects
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what:<36} {:>9.3} ms {:>9.3} ms", ms(median), ms(most));
}

/// Resident memory of this process, in MiB.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / f64::from(1 << 20)
}

fn main() {
    let start = resident();
    let mut objects = objects();
    let with_objects = resident();
    let installation = Installation::default();
    let mut compiler = Compiler::default();
    let compiled = compiler.compile(&objects, &installation);
    let with_all = resident();
    println!("{:<36} {:>12} {:>12}", "", "median", "slowest");
    let mut full = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        let mut compiler = Compiler::default();
        let again = compiler.compile(&objects, &installation);
        full.push(start.elapsed());
        assert_eq!(again, compiled);
    }
    show("full", full);
    let mut change = |what: &str, change: &dyn Fn(&mut Objects, usize)| {
        let mut times = Vec::new();
        for run in 0..RUNS {
            change(&mut objects, run);
            let start = Instant::now();
            let compiled = compiler.compile(&objects, &installation);
            times.push(start.elapsed());
            if run == 0 {
                assert_eq!(compiled, compile(&objects, &installation));
            }
        }
        show(what, times);
    };
    let name =
        |kind: &str, number: usize| ObjectName::new(namespace(number), format!("{kind}-{number}"));
    change("nothing", &|_, _| {});
    change("one policy", &|objects, run| {
        let policy = read(policy(1000, None, &format!("run-{run}.example.com")));
        objects.policies.insert(name("all", 1000), policy);
    });
    change("one Service", &|objects, run| {
        let service = read(service(1000, 1000 + run as u16));
        objects.services.insert(name("service", 1000), service);
    });
    change("one Service's ClusterIP", &|objects, run| {
        let mut service = service(1000, 443);
        service["spec"]["clusterIP"] = format!("10.95.0.{run}").into();
        objects
            .services
            .insert(name("service", 1000), read(service));
    });
    change("one CA (of 100 policies)", &|objects, _| {
        let ca_name = CaName::config_map(namespace(0), "ca");
        objects.ca_objects.insert(ca_name, ca_object(&ca()));
    });
    change("one EndpointSlice (100 endpoints)", &|objects, run| {
        let slice = read(slice(1, ENDPOINTS - run));
        objects.endpoint_slices.insert(name("slice", 1), slice);
    });
    change("CA of every namespace", &|objects, _| {
        let pem = ca();
        for number in 0..NAMESPACES {
            let ca_name = CaName::config_map(namespace(number), "ca");
            objects.ca_objects.insert(ca_name, ca_object(&pem));
        }
    });
    println!(
        "{} policies, {} Services, {} targets of 65,534; resident: objects {:.0} MiB, compiled {:.0} MiB more",
        objects.policies.len(),
        objects.services.len(),
        compiled.snapshot.targets.len(),
        with_objects - start,
        with_all - with_objects
    );
}
