//! The images of the cluster's pods, made of programs that are on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::sources;
use crate::demo::world::built;
use crate::oci::Image;
use crate::sh;

/// Programs of the client's image, besides our own; the last four make a network namespace as Docker does.
const CLIENT: [&str; 12] = [
    "sh", "curl", "openssl", "cat", "env", "ls", "sleep", "true", "ip", "nft", "nsenter", "unshare",
];
const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";

/// Builds all into `directory`, as `NAME.tar`; in the cluster they are `nodetls.test/NAME:1`.
pub(super) fn build(programs: &Path, traefik: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for (program, programs) in [
        ("pause", programs),
        ("coredns", programs),
        ("traefik", traefik),
    ] {
        let mut image = Image::new(
            &name(program),
            json!({"Entrypoint": [format!("/{program}")]}),
        );
        image.executable(format!("/{program}"), &programs.join(program))?;
        image.write(&file(directory, program))?;
    }
    for (image, name) in [
        (client()?, "client"),
        (tls_echo()?, "tls-echo"),
        (nginx()?, "nginx"),
    ] {
        image.write(&file(directory, name))?;
    }
    Ok(())
}

fn name(image: &str) -> String {
    format!("nodetls.test/{image}:1")
}

fn file(directory: &Path, image: &str) -> PathBuf {
    directory.join(image).with_extension("tar")
}

/// What every image but those of one static program has.
fn base(image: &str, config: serde_json::Value) -> Image {
    let mut image = Image::new(&name(image), config);
    image.directory("/tmp", 0o1777);
    image.text("/etc/passwd", PASSWD);
    image.text("/etc/group", "root:x:0:\nnogroup:x:65534:\n");
    image
}

/// curl, a shell and the tests' own client.
fn client() -> Result<Image> {
    let path = json!(["PATH=/bin"]);
    let mut image = base(
        "client",
        json!({"Cmd": ["/bin/sleep", "infinity"], "Env": path}),
    );
    for program in CLIENT {
        let from = sh::find(program).with_context(|| format!("{program} is not installed"))?;
        image.program(&format!("/bin/{program}"), &from)?;
    }
    image.program("/bin/dial", &built("dial")?)?;
    Ok(image)
}

fn tls_echo() -> Result<Image> {
    let mut image = base("tls-echo", json!({"Entrypoint": ["/tls-echo"]}));
    image.program("/tls-echo", &built("tls-echo")?)?;
    Ok(image)
}

/// Debian's nginx; its servers are to be mounted at /etc/nginx/conf.d, as with nginx' own image.
fn nginx() -> Result<Image> {
    let mut image = base("nginx", json!({"Entrypoint": ["/usr/sbin/nginx"]}));
    let from = sh::find("nginx").context("nginx is not installed")?;
    image.program("/usr/sbin/nginx", &from)?;
    for directory in [
        "/var/log/nginx",
        "/var/lib/nginx",
        "/run",
        "/etc/nginx/conf.d",
    ] {
        image.directory(directory, 0o755);
    }
    let types = fs::read_to_string("/etc/nginx/mime.types").context("/etc/nginx/mime.types")?;
    image.text("/etc/nginx/mime.types", &types);
    let configuration = sources().join("images/nginx.conf");
    image.text("/etc/nginx/nginx.conf", &fs::read_to_string(configuration)?);
    Ok(image)
}
