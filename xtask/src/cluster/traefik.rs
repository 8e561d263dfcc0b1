//! Traefik, a gateway of another project that the end-to-end tests put beside nodetls; built like the cluster's programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{programs, sources};
use crate::sh;

const PACKAGE: &str = "github.com/traefik/traefik/v3/cmd/traefik";
/// What the key of the cache covers, and what the module is made of.
const SOURCES: [&str; 5] = [
    "go.mod",
    "go.sum",
    "ext/go.mod",
    "ext/ext.go",
    WITHOUT_DNS_PROVIDERS,
];
/// Traefik's client of Let's Encrypt; the file of it that links in all DNS hosts' clients, and what takes its place.
const LEGO: &str = "github.com/go-acme/lego/v5";
const DNS_PROVIDERS: &str = "providers/dns/zz_gen_dns_providers.go";
const WITHOUT_DNS_PROVIDERS: &str = "without_dns_providers.go";
/// What Traefik watches, besides policies; without one of them it waits for ever.
const KINDS: [&str; 6] = [
    "gatewayclasses",
    "gateways",
    "grpcroutes",
    "httproutes",
    "referencegrants",
    "tlsroutes",
];
/// Their definitions, in the cache.
pub(super) const CRDS: &str = "crds";

/// The directory of Traefik and the CRDs that it needs; builds them when this state of the sources has not been built yet.
///
/// # Errors
/// As for the cluster's programs.
pub(super) fn directory() -> Result<PathBuf> {
    programs::kept("traefik", &module(), &SOURCES, build)
}

fn module() -> PathBuf {
    sources().join("traefik")
}

fn build(output: &Path) -> Result<()> {
    println!("   building Traefik: about 5 minutes on two cores, once");
    // Of the tests' module, as lego's copy is not to lie in the checkout.
    let copy = output.join("module");
    fs::create_dir_all(copy.join("ext"))?;
    for file in SOURCES {
        fs::copy(module().join(file), copy.join(file)).context(file)?;
    }
    let go = |args: &str| sh::output(&mut programs::go(&copy, args));
    go(&format!("mod download {LEGO}"))?;
    let lego = go(&format!("list -m -f {{{{.Dir}}}} {LEGO}"))?;
    let own = copy.join("lego");
    let copied = format!("-rT --no-preserve=mode {} {}", lego.trim(), own.display());
    sh::output(&mut sh::command("cp", &copied))?;
    fs::copy(copy.join(WITHOUT_DNS_PROVIDERS), own.join(DNS_PROVIDERS))?;
    go(&format!("mod edit -replace {LEGO}=./lego"))?;
    programs::compile(&copy, &[PACKAGE], "-s -w", output)?;

    let gateway_api = go("list -m -f {{.Dir}} sigs.k8s.io/gateway-api")?;
    fs::create_dir_all(output.join(CRDS))?;
    for kind in KINDS {
        let file = format!("gateway.networking.k8s.io_{kind}.yaml");
        let crd = Path::new(gateway_api.trim()).join("config/crd/standard");
        fs::copy(crd.join(&file), output.join(CRDS).join(&file)).context(file)?;
    }
    Ok(fs::remove_dir_all(copy)?)
}
