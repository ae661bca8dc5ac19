//! Calls, messages and frames beyond the limit, and calls past their deadline.

use std::future::poll_fn;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::client::GrpcService;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{FIRST, PATIENCE, SECOND, Scene, runtime};

#[test]
fn messages_without_a_token_take_no_memory() {
    let scene = Scene::new(false);
    let strangers = Runtime::new().unwrap();
    // A message of 4 MiB without its last bytes.
    let length = 4_u32 << 20;
    let most = usize::try_from(length).unwrap() - 16;
    let half = Bytes::from([&[0][..], &length.to_be_bytes(), &vec![7; most]].concat());
    let before = scene.peak();
    for path in ["/grpc.health.v1.Health/Check", "/grep11.Crypto/SignSingle", "/grep11.Crypto/Unknown"] {
        strangers.block_on(async {
            let mut calls = JoinSet::new();
            for _ in 0..4 {
                let channel = scene.channel().await.unwrap();
                for _ in 0..25 {
                    let (half, mut channel) = (half.clone(), channel.clone());
                    calls.spawn(async move {
                        let sent = tokio_stream::once(Ok::<_, Status>(Frame::data(half)));
                        let body = StreamBody::new(sent.chain(tokio_stream::pending()));
                        let request = hyper::Request::post(format!("http://localhost{path}"));
                        let request = request.header("content-type", "application/grpc");
                        let request = request.body(tonic::body::Body::new(body)).unwrap();
                        poll_fn(|context| {
                            GrpcService::<tonic::body::Body>::poll_ready(&mut channel, context)
                        })
                        .await
                        .unwrap();
                        timeout(PATIENCE, channel.call(request)).await.map(drop)
                    });
                }
            }
            while let Some(ended) = calls.join_next().await {
                assert!(ended.unwrap().is_ok(), "the server waits for all of {path}");
            }
        });
    }
    let grown = (scene.peak() - before) >> 20;
    println!("{grown} MiB for half messages");
    assert!(grown < 64, "{grown} MiB");
    scene.newcomers_get_through();
}

#[test]
fn a_connection_without_a_token_has_few_calls() {
    let scene = Scene::new(false);
    runtime().block_on(async {
        let mut stranger = scene.connect("0123456789abcdef-unknown").await.unwrap();
        let mut refused = 0;
        while let Err(status) = stranger.list().await {
            match status.code() {
                Code::Unauthenticated => refused += 1,
                _ => break,
            }
            assert!(refused < 5000, "the server goes on to refuse");
        }
        println!("{refused} calls refused, then closed");
        assert!(refused >= 200, "{refused}");

        let mut health = HealthClient::new(scene.channel().await.unwrap());
        let request = || HealthCheckRequest { service: String::new() };
        let mut watched = Vec::new();
        for _ in 0..4 {
            watched.push(health.watch(request()).await.unwrap());
        }
        let refused = health.watch(request()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        watched.pop();
        timeout(PATIENCE, async { while health.check(request()).await.is_err() {} }).await.unwrap();
    });
    assert!(
        scene.server.log().contains("without an authenticated client exceeded"),
        "{}",
        scene.server.log()
    );
}

#[test]
fn a_connection_without_a_token_has_few_frames() {
    let scene = Scene::new(false);
    let mut stream = TcpStream::connect(scene.address()).unwrap();
    let mut answers = stream.try_clone().unwrap();
    let drain = thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
    // The preface, empty settings, and pings (RFC 9113, 3.4, 6.5 and 6.7).
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat();
    let mut pings = 0;
    while stream.write_all(&sent).is_ok() {
        sent = ping.repeat(1000);
        pings += 1000;
        assert!(pings < 1_000_000, "the server goes on to answer");
    }
    println!("{pings} pings, then closed");
    let _ = drain.join();
    scene.newcomers_get_through();
}

#[test]
fn calls_beyond_the_bound_are_refused_and_others_served() {
    let scene = Scene::new(false);
    let flood = Runtime::new().unwrap();
    let (signed, refused) = flood.block_on(async {
        let key = Arc::new(scene.connect(FIRST).await.unwrap().rsa4096().await);
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            let client = scene.connect(FIRST).await.unwrap();
            for _ in 0..200 {
                let (mut client, key) = (client.clone(), Arc::clone(&key));
                calls.spawn(async move { client.sign(&key, Duration::from_secs(60)).await });
            }
        }
        let (mut signed, mut refused) = (0, Vec::new());
        while let Some(outcome) = calls.join_next().await {
            match outcome.unwrap() {
                Ok(()) => signed += 1,
                Err(status) => refused.push(status),
            }
            if signed == 100 {
                assert!(scene.connect(SECOND).await.unwrap().list().await.is_ok());
            }
        }
        (signed, refused)
    });
    println!("{signed} signed, {} refused", refused.len());
    assert!(signed >= 1024 && refused.len() >= 400, "{signed} signed, {} refused", refused.len());
    for status in &refused {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(
            status.message().starts_with("CKR_HOST_MEMORY: too many calls of this client wait"),
            "{status:?}"
        );
    }
    let log = scene.server.log();
    let told = |line: &&str| line.contains("call refused") && line.contains("token in line 1");
    let counts = log.lines().filter(told).filter_map(|line| line.split("times=").nth(1));
    let counted: usize = counts.filter_map(|rest| rest.split(' ').next()?.parse::<usize>().ok()).sum();
    assert!(counted > 0 && counted <= refused.len(), "{log}");
    assert!(!log.contains(FIRST), "{log}");
}

#[test]
fn calls_past_their_deadline_are_not_computed() {
    let scene = Scene::new(false);
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = scene.connect(FIRST).await.unwrap();
        let key = Arc::new(client.rsa4096().await);
        let mut one = Duration::ZERO;
        for _ in 0..3 {
            let begin = Instant::now();
            client.sign(&key, PATIENCE).await.unwrap();
            one = one.max(begin.elapsed());
        }
        let mut calls = JoinSet::new();
        for _ in 0..4 {
            let client = scene.connect(FIRST).await.unwrap();
            for _ in 0..200 {
                let (mut client, key) = (client.clone(), Arc::clone(&key));
                calls.spawn(async move { client.sign(&key, 20 * one).await });
            }
        }
        let mut late = 0;
        while let Some(outcome) = calls.join_next().await {
            late += usize::from(outcome.unwrap().is_err());
        }
        assert!(late > 400, "{late} of 800 were late");
        // If the server still computed the late calls, this call would wait for 400 of them. Other
        // tests run at the same time, so the call has the time of some.
        let begin = Instant::now();
        client.sign(&key, PATIENCE).await.unwrap();
        let next = begin.elapsed();
        println!("{late} of 800 were late; one signature {one:?}, the next one {next:?}");
        assert!(next < 20 * one, "one {one:?}, the next one {next:?}");
    });
}
