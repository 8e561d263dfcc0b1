#![allow(clippy::unwrap_used)]

use super::load::{Measured, parse_millis, parse_wrk};
use super::report::Spread;
use super::usage::{rss_of, ticks_of};

const REPORT: &str = "\
Running 3s test @ http://10.96.0.10:443/1k
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.62ms  502.15us  12.99ms   87.04%
    Req/Sec    39.61k     1.61k   42.06k    76.67%
  Latency Distribution
     50%    1.53ms
     75%    1.76ms
     90%    2.09ms
     99%  950.00us
  118227 requests in 3.00s, 143.42MB read
Requests/sec:  39396.25
Transfer/sec:     47.79MB
";

#[test]
fn reads_wrk() {
    let expected = Measured {
        rate: 39396.25,
        latency: Some((1.53, 0.95)),
        work: 118_227.0,
        cpu: None,
    };
    assert_eq!(parse_wrk(REPORT).unwrap(), expected);
}

#[test]
fn failed_requests_fail_the_run() {
    for line in [
        "Socket errors: connect 0, read 3, write 0, timeout 0",
        "Non-2xx or 3xx responses: 7",
    ] {
        let report = REPORT.replace("Requests/sec:", &format!("  {line}\nRequests/sec:"));
        let error = parse_wrk(&report).unwrap_err().to_string();
        assert!(error.contains(line), "{error}");
    }
    let none = REPORT.replace("118227 requests", "0 requests");
    assert!(parse_wrk(&none).is_err());
    assert!(parse_wrk("").is_err());
}

#[test]
fn reads_durations() {
    let read = ["83.00us", "1.20ms", "2.50s", "1.00m", "x"].map(parse_millis);
    assert_eq!(
        read,
        [Some(0.083), Some(1.2), Some(2500.0), Some(60_000.0), None]
    );
}

#[test]
fn medians() {
    let spread = |figures: &[f64]| {
        let spread = Spread::of(figures.to_vec())?;
        Some((spread.min, spread.median, spread.max))
    };
    assert_eq!(spread(&[]), None);
    assert_eq!(spread(&[3.0]), Some((3.0, 3.0, 3.0)));
    assert_eq!(spread(&[9.0, 1.0, 2.0]), Some((1.0, 2.0, 9.0)));
    assert_eq!(spread(&[4.0, 1.0, 9.0, 2.0]), Some((1.0, 3.0, 9.0)));
}

#[test]
fn reads_proc() {
    let stat = "7 (a) b) S 1 7 7 0 -1 4194304 9 0 0 0 150 25 3 4 20 0 2 0 99 1 1";
    assert_eq!(ticks_of(stat), Some(175));
    assert_eq!(ticks_of("7 (a) S 1"), None);
    assert_eq!(rss_of("Name:\tx\nVmRSS:\t   2048 kB\n"), Some(2048.0));
}
