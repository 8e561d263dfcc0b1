#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::*;

fn check(head: &str, expected: &str) {
    // What follows the head is not a head's business.
    let rest = "\0body\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n";
    let result = without_h2c(format!("{head}{rest}").into_bytes());
    let result = String::from_utf8(result).unwrap();
    assert_eq!(result, format!("{expected}{rest}"));
}

#[test]
fn the_offer_of_h2c_is_taken_out() {
    check(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nAccept:  */*\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAccept:  */*\r\n\r\n",
    );
    check(
        "GET / HTTP/1.1\r\nconnection:keep-alive,upgrade ,http2-settings\r\nUPGRADE:H2C\r\n\
         http2-settings: x\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nconnection: keep-alive\r\nHost: a\r\n\r\n",
    );
    check(
        "GET / HTTP/1.1\nUpgrade: h2c\nConnection: Upgrade\nHost: a\n\n",
        "GET / HTTP/1.1\nHost: a\n\n",
    );
}

#[test]
fn another_upgrade_stays() {
    check(
        "GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    check(
        "GET / HTTP/1.1\r\nUpgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    );
}

#[test]
fn all_other_heads_stay_as_they_are() {
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhOST:a\r\nX:  1 \t\r\nX: h2c\r\nConnection:  close\r\n\r\n",
        "GET /chat HTTP/1.1\r\nConnection: keep-alive,  Upgrade\r\nUpgrade:  websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n",
        "GET / HTTP/1.1\r\nUpgrade: h2cx\r\n\r\n",
        "GET / HTTP/1.1\r\nFolded: a\r\n b\r\nUpgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nUpgrade: h2c\r\n",
    ] {
        let bytes = head.as_bytes().to_vec();
        assert_eq!(without_h2c(bytes.clone()), bytes, "{head}");
    }
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5000));
    assert_eq!(without_h2c(many.clone().into_bytes()), many.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_head_is_read_to_its_end_and_what_came_with_it_kept() {
    for (parts, expected) in [
        (vec!["Host: a\r", "\n\r", "\nbody"], "Host: a\r\n\r\nbody"),
        (vec!["Host: a\n", "\n"], "Host: a\n\n"),
        (vec!["\r\nGET "], "\r\nGET "),
    ] {
        let (mut client, mut proxy) = io::duplex(1024);
        let mut first = b"GET / HTTP/1.1\r\n".to_vec();
        let writer = async {
            for part in parts {
                client.write_all(part.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let (result, ()) = tokio::join!(read_head(&mut proxy, &mut first), writer);
        result.unwrap();
        let expected = format!("GET / HTTP/1.1\r\n{expected}");
        assert_eq!(String::from_utf8(first).unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_is_bounded_in_time_and_length() {
    let (mut client, mut proxy) = io::duplex(1024);
    let mut first = b"GET / HTTP/1.1\r\n".to_vec();
    let started = Instant::now();
    let slowly = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.write_all(b"a").await.unwrap();
        }
    };
    let result = tokio::select! {
        result = read_head(&mut proxy, &mut first) => result,
        () = slowly => Ok(()),
    };
    assert!(matches!(result, Err(Unread::TooSlow)));
    assert!(started.elapsed() <= Duration::from_secs(11));

    let complete = [&[b'a'; MAX_HEAD + 1][..], b"\r\n\r\n"].concat();
    for head in [complete, vec![b'a'; 3 * MAX_HEAD]] {
        let (mut client, mut proxy) = io::duplex(4 * MAX_HEAD);
        client.write_all(&head).await.unwrap();
        let mut first = b"GET / HTTP/1.1\r\n".to_vec();
        let result = read_head(&mut proxy, &mut first).await;
        assert!(matches!(result, Err(Unread::TooLong)));
        assert!(first.len() <= 2 * MAX_HEAD + 64, "{} bytes", first.len());
    }
}

#[tokio::test]
async fn a_client_that_closes_its_half_early_is_for_the_server_to_judge() {
    let (mut client, mut proxy) = io::duplex(1024);
    client.write_all(b"Host: a\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut first = b"GET / HTTP/1.1\r\n".to_vec();
    read_head(&mut proxy, &mut first).await.unwrap();
    assert_eq!(first, b"GET / HTTP/1.1\r\nHost: a\r\n");
}
