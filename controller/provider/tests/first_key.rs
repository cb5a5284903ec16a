//! A new server is known by the key under which it first took the password; who shows another one later is sent none.

use std::{
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use fleet_model::Secret;
use fleet_provider::bootstrap::{BootstrapError, SshTarget, push, ssh::FirstKey};
use russh::{
    keys::{HashAlg, PrivateKey, ssh_key::private::Ed25519Keypair},
    server::{self, Auth, Config},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// What answers at the address, and what it was told.
#[derive(Debug, Default)]
struct Doings {
    /// Which of the keys is shown.
    key: usize,
    /// Passwords each key's owner was sent.
    passwords: [usize; 3],
}

#[derive(Clone)]
struct Door {
    key: usize,
    doings: Arc<Mutex<Doings>>,
}

impl server::Handler for Door {
    type Error = russh::Error;

    async fn auth_password(&mut self, _: &str, _: &str) -> Result<Auth, Self::Error> {
        let mut doings = self.doings.lock().expect("no panic");
        doings.passwords[self.key] += 1;
        // The first is still set up, and makes its keys anew. From the second on somebody else answers.
        doings.key = self.key + 1;
        Ok(if self.key == 0 { Auth::reject() } else { Auth::Accept })
    }
}

#[derive(Debug, Default)]
struct Noted(Mutex<Option<String>>);

#[async_trait]
impl FirstKey for Noted {
    async fn known(&self) -> Result<Option<String>, Box<dyn Error + Send + Sync>> {
        Ok(self.0.lock().expect("no panic").clone())
    }
    async fn keep(&self, key: String) -> Result<(), Box<dyn Error + Send + Sync>> {
        let before = self.0.lock().expect("no panic").replace(key);
        assert_eq!(before, None, "kept once");
        Ok(())
    }
}

#[tokio::test]
async fn who_answers_later_under_another_key_is_sent_nothing() {
    let keys = [0, 1, 2].map(|_| PrivateKey::from(Ed25519Keypair::from_seed(&rand::random())));
    let doings = Arc::<Mutex<Doings>>::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (serving, shown) = (doings.clone(), keys.clone());
    // Ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let key = serving.lock().expect("no panic").key;
            let config = Config {
                auth_rejection_time: Duration::ZERO,
                keys: vec![shown[key].clone()],
                ..Config::default()
            };
            let door = Door { key, doings: serving.clone() };
            tokio::spawn(async move {
                if let Ok(session) = server::run_stream(Arc::new(config), stream, door).await {
                    // A client that goes away is no news.
                    let _ = session.await;
                }
            });
        }
    });
    let first_key = Arc::<Noted>::default();
    let target = SshTarget {
        node: "db-1".parse().expect("a name"),
        addresses: vec![address],
        user: "root".to_owned(),
        password: Secret::new("pw"),
        first_key: first_key.clone(),
        boot_deadline: Duration::from_secs(20),
    };
    // The first one lets nobody in yet; the second does, and breaks off.
    let (events, _watch) = mpsc::channel(64);
    let error = push(&target, b"", &events, &CancellationToken::new()).await.expect_err("no shell");
    assert!(!matches!(error, BootstrapError::HostKey { .. }), "{error}");
    assert_eq!(doings.lock().expect("no panic").passwords, [1, 1, 0]);
    // Every further run finds a stranger.
    for _ in 0..2 {
        let error = push(&target, b"", &events, &CancellationToken::new()).await.expect_err("a stranger");
        let BootstrapError::HostKey { shown, .. } = &error else { panic!("{error}") };
        assert_eq!(*shown, keys[2].public_key().fingerprint(HashAlg::Sha256).to_string());
        assert!(error.to_string().contains("fleetctl replace db-1"), "{error}");
        assert_eq!(doings.lock().expect("no panic").passwords, [1, 1, 0]);
    }
    let noted = first_key.0.lock().expect("no panic").clone().expect("noted");
    assert_eq!(noted.split(' ').take(2).collect::<Vec<_>>().join(" "), {
        let line = keys[1].public_key().to_openssh().expect("a line");
        line.split(' ').take(2).collect::<Vec<_>>().join(" ")
    });
}
