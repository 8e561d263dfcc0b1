//! Servers in the backend's netns.

use std::fs;
use std::process::{Command, Stdio};

use crate::process::{Running, binary, netns_exec};
use crate::{Identity, World};

impl World {
    /// A command in the backend's netns.
    pub fn in_backend(&self, program: &str) -> Command {
        netns_exec(&self.backend, program)
    }

    /// Starts any server, and waits until it listens on `port`.
    #[track_caller]
    pub fn serve(&mut self, mut command: Command, port: u16) {
        let log = format!("server-{}.log", self.servers.len());
        let log = fs::File::create(self.dir.path().join(log)).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.servers.push(Running::new(command));
        self.wait_for_server(port);
    }

    /// The same for one that is talked with: its standard input goes to the client.
    #[track_caller]
    pub fn serve_talking(&self, mut command: Command, port: u16) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let server = Running::new(command);
        self.wait_for_server(port);
        server
    }

    #[track_caller]
    fn wait_for_server(&self, port: u16) {
        self.wait("the server listens", |world| {
            let mut ss = world.in_backend("ss");
            ss.args(["-Hltn", &format!("sport = :{port}")]);
            !ss.output().unwrap().stdout.is_empty()
        });
    }

    /// The TLS echo server.
    #[track_caller]
    pub fn echo(&mut self, identity: &Identity, port: u16) {
        let mut echo = self.tls_server("tls-echo", identity, port);
        echo.args(["--listen", &format!("[::]:{port}")]);
        self.serve(echo, port);
    }

    /// A server of ours that takes `--cert` and `--key`, in the directory with the test's files.
    pub fn tls_server(&self, program: &str, identity: &Identity, port: u16) -> Command {
        let mut server = self.in_files(&binary(program));
        let [certificate, key] = self.identity(identity, port);
        server.args(["--cert", &certificate, "--key", &key]);
        server
    }

    /// `openssl s_server` with these options, in the directory with the test's files.
    pub fn s_server(&self, identity: &Identity, port: u16, options: &str) -> Command {
        let mut server = self.in_files("openssl");
        let [certificate, key] = self.identity(identity, port);
        server.args(["s_server", "-accept", &port.to_string()]);
        server.args(["-cert", &certificate, "-key", &key]);
        server.args(options.split_whitespace());
        server
    }

    /// nginx with the test's files, which listens on `port` in plaintext.
    pub fn nginx(&mut self, port: u16) {
        self.serve_nginx(port, &format!("listen {port};"));
    }

    /// The same with TLS, and more of its directives.
    pub fn nginx_tls(&mut self, identity: &Identity, port: u16, directives: &str) {
        self.nginx_listening("ssl", identity, port, directives);
    }

    /// The same with HTTP/2.
    pub fn nginx_http2(&mut self, identity: &Identity, port: u16, directives: &str) {
        self.nginx_listening("ssl http2", identity, port, directives);
    }

    fn nginx_listening(&mut self, how: &str, identity: &Identity, port: u16, directives: &str) {
        let [certificate, key] = self.identity(identity, port);
        let tls = format!(
            "listen {port} {how}; ssl_certificate {certificate}; ssl_certificate_key {key};"
        );
        self.serve_nginx(port, &format!("{tls} {directives}"));
    }

    /// nginx as a mail server that changes to TLS when its client asks for it (STARTTLS).
    pub fn nginx_starttls(&mut self, identity: &Identity, port: u16) {
        let [certificate, key] = self.identity(identity, port);
        self.serve_nginx_with(
            port,
            "load_module /usr/lib/nginx/modules/ngx_mail_module.so;",
            &format!(
                "mail {{ server_name mail; auth_http 127.0.0.1:9; server {{ listen {port}; protocol smtp; starttls on; \
                 ssl_certificate {certificate}; ssl_certificate_key {key}; }} }}"
            ),
        );
    }

    fn serve_nginx(&mut self, port: u16, directives: &str) {
        let http = "access_log off; client_body_temp_path .;";
        let http = format!("http {{ {http} server {{ root .; {directives} }} }}");
        self.serve_nginx_with(port, "", &http);
    }

    fn serve_nginx_with(&mut self, port: u16, modules: &str, blocks: &str) {
        let config = format!(
            "{modules} daemon off; master_process off; pid nginx.pid; error_log nginx.err; user root; events {{}}\n{blocks}\n"
        );
        self.file("nginx.conf", &config);
        let mut nginx = self.in_backend("nginx");
        nginx
            .arg("-p")
            .arg(self.dir.path())
            .args(["-c", "nginx.conf"]);
        self.serve(nginx, port);
    }

    fn in_files(&self, program: &str) -> Command {
        let mut command = self.in_backend(program);
        command.current_dir(self.dir.path());
        command
    }

    /// Names of the files with the certificate and the key of the server on `port`.
    fn identity(&self, identity: &Identity, port: u16) -> [String; 2] {
        let names = [format!("{port}.crt"), format!("{port}.key")];
        self.file(&names[0], &identity.certificate);
        self.file(&names[1], &identity.key);
        names
    }
}
