#![allow(clippy::unwrap_used)]

use super::load::{parse_h2load, parse_millis, parse_own, parse_wrk};
use super::peer::Peer;
use super::profile::{Place, parse_perf, parse_speed};
use super::scenario::{Measured, Scenario};
use super::service::{Service, for_each};
use super::stats::{Results, Spread};
use super::usage::{rss_of, ticks_of};
use super::{goals, plot, report};

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
        rate: Some(39396.25),
        latency: Some((1.53, 0.95)),
        work: 118_227.0,
        ..Measured::default()
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

const H2LOAD: &str = "\
spawning thread #0: 1 total client(s). Timing-based test with 0s of warm-up time and 2s of main duration
finished in 2.01s, 99.50 req/s, 1.20MB/s
requests: 200 total, 232 started, 200 done, 199 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 200 2xx, 0 3xx, 0 4xx, 0 5xx
";

#[test]
fn reads_h2load() {
    let log: String = (1..=200)
        .rev()
        .map(|micros| format!("1700000000000000\t200\t{micros}000\n"))
        .collect();
    let expected = Measured {
        rate: Some(99.5),
        latency: Some((100.0, 198.0)),
        work: 199.0,
        ..Measured::default()
    };
    assert_eq!(parse_h2load(H2LOAD, &log).unwrap(), expected);
    for failure in ["failed", "errored", "timeout"] {
        let report = H2LOAD.replace(&format!("0 {failure}"), &format!("3 {failure}"));
        assert!(parse_h2load(&report, &log).is_err(), "{failure}");
    }
    let refused = log.replacen("\t200\t", "\t502\t", 1);
    assert!(parse_h2load(H2LOAD, &refused).is_err());
    assert!(parse_h2load(H2LOAD, "").is_err());
}

#[test]
fn reads_our_own_load() {
    let line = r#"{"done":300,"seconds":1.5,"p50":0.25,"p99":2.0}"#;
    let expected = Measured {
        rate: Some(200.0),
        latency: Some((0.25, 2.0)),
        work: 300.0,
        ..Measured::default()
    };
    assert_eq!(parse_own(line).unwrap(), expected);
    assert!(parse_own(r#"{"done":300,"seconds":1.5,"p50":null}"#).is_err());
    assert!(parse_own("").is_err());
}

#[test]
fn a_configuration_names_each_service() {
    let template =
        "a\n  # for each service\n  @SERVICE@ @PORT@\n  h2  # only grpc, echo\n  # end\nb\n";
    let text = for_each(template, &[Service::Web, Service::Echo], |service| {
        service.tls_port() + 1
    });
    assert_eq!(text, "a\n  web 8444\n  echo 8446\n  h2\nb\n");
}

/// Of KeepAlive: CPU seconds per request of each, in two rounds.
fn results() -> Results {
    let mut results = Results::default();
    let cpu = [
        (Peer::Nodetls, [1e-5, 3e-5]),
        (Peer::EnvoyTcp, [4e-5, 4e-5]),
        (Peer::HaproxyTcp, [2.4e-5, 2.6e-5]),
        (Peer::PlainRelay, [1e-6, 1e-6]),
    ];
    for (peer, rounds) in cpu {
        for cpu in rounds {
            let measured = Measured {
                rate: Some(1000.0),
                work: 2000.0,
                cpu_time: Some(cpu * 2000.0),
                ..Measured::default()
            };
            results.add(Scenario::KeepAlive, peer, measured);
        }
    }
    results
}

#[test]
fn a_table_has_medians_spreads_and_ratios() {
    let peers = [Peer::Nodetls, Peer::EnvoyTcp, Peer::DirectTls];
    let scenarios = [Scenario::KeepAlive, Scenario::Scale];
    let text = report::tables(&results(), &scenarios, &peers);
    // The best of the others is HAProxy, although it is not shown; a floor is none of them.
    let row = "\n| nodetls | 1000 | 1.00 | 1.00 | 20.0 (10.0..30.0) | 0.80 | 0.50 | – | – | – |\n";
    assert!(text.contains(row), "{text}");
    assert!(!text.contains("direct-tls"), "{text}");
}

#[test]
fn goals_are_judged_by_what_was_measured() {
    let text = goals::table(&results());
    let rows: Vec<_> = text.lines().skip(3).collect();
    let what = "CPU per HTTP/1 request on an open connection";
    assert_eq!(
        rows,
        [
            format!("| {what} | 0.60 × envoy-tcp | 0.50 | reached |"),
            format!("| {what} | 0.75 × the best, haproxy-tcp | 0.80 | missed |"),
        ]
    );
}

#[test]
fn a_plot_has_a_bar_for_each() {
    let scenarios = [Scenario::KeepAlive, Scenario::New];
    let svg = plot::svg(&results(), &scenarios);
    assert_eq!(svg.matches("<g ").count(), 1);
    assert_eq!(svg.matches("<rect x=").count(), 4);
    assert!(
        svg.contains(">haproxy-tcp</text>") && svg.contains(">25.0</text>"),
        "{svg}"
    );
}

#[test]
fn samples_are_told_by_what_the_code_is_for() {
    let report = "\
 50.00% ;nodetls          ;[.] <rustls::conn::Reader as std::io::Read>::read
  5.50% ;nodetls          ;[.] core::ptr::drop_in_place<rustls::Stream<nodetls::X>>
 10.00% ;nodetls          ;[.] tokio::runtime::task::raw::poll<nodetls::proxy::serve>
  9.00% ;nodetls          ;[.] nodetls::proxy::relay::{{closure}}
  8.00% ;nodetls          ;[.] aws_lc_0_39_0_aes_gcm_enc_update_vaes_avx512
  4.00% ;libc.so.6        ;[.] __memmove_avx_unaligned_erms
  3.00% ;[kernel.kallsyms] ;[k] tcp_sendmsg_locked
  2.00% ;[kernel.kallsyms] ;[k] _copy_to_iter
  1.00% ;[kernel.kallsyms] ;[k] do_epoll_wait
  0.50% ;bpf_prog_0123456789abcdef_connect4 ;[k] bpf_prog_0123456789abcdef_connect4
";
    let expected = [
        (Place::Cryptography, 8.0),
        (Place::Tls, 55.5),
        (Place::Nodetls, 9.0),
        (Place::Runtime, 10.0),
        (Place::Memory, 4.0),
        (Place::Network, 3.0),
        (Place::Copying, 2.0),
        (Place::Waiting, 1.0),
        (Place::Programs, 0.5),
    ];
    assert_eq!(parse_perf(report), expected.into());
}

#[test]
fn reads_the_speed_of_the_cipher() {
    let report = "+H:16384\n+F:25:AES-256-GCM:2147483648.00\n";
    assert_eq!(parse_speed(report).unwrap(), 0.5);
    assert!(parse_speed("").is_err());
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
