//! curl, the tests' plain client.

use crate::Namespace;

/// What curl got.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status; 0 without an answer.
    pub status: u16,
    /// The answer's body.
    pub body: String,
    /// Why there is none, in curl's words.
    pub error: String,
}

impl Namespace {
    /// `curl ARGUMENTS` in a pod (or `POD/CONTAINER`), for 5 s at most.
    ///
    /// # Panics
    /// curl could not be run.
    pub fn curl(&self, pod: &str, arguments: &[&str]) -> Answer {
        let curl = ["curl", "-s", "-m", "5", "-w", "\n%{http_code} %{errormsg}"];
        let output = crate::exec(&self.0, pod, &[&curl, arguments].concat());
        let printed = String::from_utf8_lossy(&output.stdout);
        let (body, end) = printed.rsplit_once('\n').unwrap_or_default();
        let (status, error) = end.split_once(' ').unwrap_or_default();
        let Ok(status) = status.parse() else {
            panic!("curl in {pod}: {}", crate::text(&output));
        };
        Answer {
            status,
            body: body.to_owned(),
            error: error.to_owned(),
        }
    }

    /// Waits until `url` answers a pod (or `POD/CONTAINER`) with this status.
    ///
    /// # Panics
    /// It does not within 30 s.
    pub fn until_status(&self, pod: &str, url: &str, status: u16) {
        crate::until(&format!("{url} answers {pod} with {status}"), || {
            let got = self.curl(pod, &[url]);
            (got.status == status)
                .then_some(())
                .ok_or(format!("{got:?}"))
        });
    }

    /// What `url` answers, once it answers a pod (or `POD/CONTAINER`) with 200.
    ///
    /// # Panics
    /// It does not within 30 s.
    pub fn until_ok(&self, pod: &str, url: &str) -> String {
        crate::until(&format!("{url} answers {pod}"), || {
            let got = self.curl(pod, &[url]);
            match got.status {
                200 => Ok(got.body),
                _ => Err(format!("{got:?}")),
            }
        })
    }
}
