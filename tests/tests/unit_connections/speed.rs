//! The speed of one client while another client keeps the server busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::client::{Client, Key};
use super::{FIRST, PATIENCE, SECOND, Scene, runtime};

#[test]
fn rsa_of_one_client_does_not_slow_down_another() {
    let scene = Scene::new(true);
    let own = runtime();
    let mut client = own.block_on(scene.connect(SECOND)).unwrap();
    let key = own.block_on(client.p256());
    let alone = client.speed(&own, &key, 2);
    let flood = Flood::start(&scene, 16, 4, Client::rsa4096);
    let beside = client.speed(&own, &key, 5);
    let signed = flood.stop();
    println!("p50 and p99 alone {alone:?}, beside {signed} RSA signatures {beside:?}");
    assert!(signed > 100, "{signed}");
    // On a busy machine, a client is slow even when it is alone.
    let most = [4, 15].map(Duration::from_millis);
    let is_quick = |which: usize| beside[which] < most[which].max(4 * alone[which]);
    assert!(is_quick(0) && is_quick(1), "{beside:?}, alone {alone:?}");
}

#[test]
fn cheap_calls_of_one_client_do_not_slow_down_another() {
    let scene = Scene::new(true);
    let own = runtime();
    let mut client = own.block_on(scene.connect(SECOND)).unwrap();
    let key = own.block_on(client.p256());
    println!("p50 and p99 alone {:?}", client.speed(&own, &key, 2));
    // With P-256 the flooding client is the bottleneck, with RSA-2048 the server is.
    for rsa in [false, true] {
        let flood = Flood::start(&scene, 16, 64, async |client: &mut Client| match rsa {
            true => client.rsa(2048).await,
            false => client.p256().await,
        });
        let seconds = 5;
        let beside = client.speed(&own, &key, seconds);
        // After this pause the server treats the client as a new client.
        thread::sleep(Duration::from_millis(1500));
        let begin = Instant::now();
        own.block_on(client.sign(&key, PATIENCE)).unwrap();
        let anew = begin.elapsed();
        let signed = u32::try_from(flood.stop()).unwrap();
        // Time that the other client would wait if the server answered calls in their order.
        let waits = (Duration::from_secs(seconds) + Duration::from_millis(1500)) * 16 * 64 / signed;
        println!("beside {signed} signatures, RSA {rsa}: {beside:?}, anew {anew:?}, those take {waits:?}");
        assert!(anew < waits / 4, "{anew:?}, the others {waits:?}");
        assert!(beside[0] < waits / 20 && beside[1] < waits / 4, "{beside:?}, the others {waits:?}");
    }
}

/// A client that makes signatures without a pause, on several connections with several calls each.
struct Flood {
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    signed: Arc<AtomicUsize>,
}

impl Flood {
    fn start(
        scene: &Scene,
        connections: usize,
        calls: usize,
        key: impl AsyncFnOnce(&mut Client) -> Key,
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, signed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        runtime.block_on(async {
            let key = Arc::new(key(&mut scene.connect(FIRST).await.unwrap()).await);
            for _ in 0..connections {
                let client = scene.connect(FIRST).await.unwrap();
                for _ in 0..calls {
                    let (mut client, key) = (client.clone(), Arc::clone(&key));
                    let (stop, signed) = (Arc::clone(&stop), Arc::clone(&signed));
                    tokio::spawn(async move {
                        while !stop.load(Ordering::Relaxed) {
                            client.sign(&key, Duration::from_secs(60)).await.unwrap();
                            signed.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            }
        });
        Self { runtime, stop, signed }
    }

    /// Ends the flood, and returns the number of signatures.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.runtime.shutdown_background();
        self.signed.load(Ordering::Relaxed)
    }
}
