//! The finished application with a database of its own, on loopback.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use fleet_reql::{Connection, Options, Replicas, Shape, WaitFor, db, db_create};
use fleet_tests::{eventually, program};
use serde_json::Value;

/// How long the programs may take to answer.
const READY: Duration = Duration::from_secs(60);

/// Both programs; dropping it ends them.
pub struct Place {
    children: Vec<Child>,
    _folder: tempfile::TempDir,
    todo: SocketAddr,
    driver: SocketAddr,
}

impl Place {
    /// An empty list, ready.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [driver, cluster, console, todo] = free_addresses();
        let (data, conf) = (folder.path().join("data"), folder.path().join("rethinkdb.conf"));
        let settings = format!(
            "server-name=only\ndirectory={}\ndriver-port={}\ncluster-port={}\nhttp-port={}\nno-update-check\n",
            data.display(),
            driver.port(),
            cluster.port(),
            console.port()
        );
        std::fs::write(&conf, settings).expect("written");
        let database = |word: &str| {
            let mut command = Command::new(program("rethinkdb-standin"));
            command.arg(word).arg("--config-file").arg(&conf).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        assert!(database("create").status().expect("it starts").success());
        let mut place = Self { children: Vec::new(), _folder: folder, todo, driver };
        place.children.push(database("serve").spawn().expect("it starts"));
        eventually("the database listens", READY, || std::net::TcpStream::connect(driver).ok());
        place.make_table().await;
        let files = certify(place._folder.path());
        let mut program = Command::new(program("fleet-todo"));
        program.args(["--listen", &todo.to_string(), "--driver", &driver.to_string(), "--node", "here"]);
        program.arg("--cert").arg(&files[0]).arg("--key").arg(&files[1]);
        place.children.push(program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"));
        eventually("the application listens", READY, || std::net::TcpStream::connect(todo).ok());
        place
    }

    async fn make_table(&self) {
        let connection = self.database().await;
        let shape = Shape::one_shard(Replicas::Count(1));
        connection.run::<Value>(db_create("todo")).await.expect("a database");
        connection.run::<Value>(db("todo").table_create("tasks", &shape)).await.expect("a table");
        let ready = db("todo").table("tasks").wait(WaitFor::AllReplicas, READY);
        connection.run_within::<Value>(ready, READY * 2).await.expect("ready");
    }

    async fn database(&self) -> Connection {
        Connection::open(self.driver, &Options::default()).await.expect("the database answers")
    }

    /// The page.
    pub fn url(&self) -> String {
        format!("https://{}/", self.todo)
    }

    /// What the table holds, sorted.
    pub async fn texts(&self) -> Vec<String> {
        let rows: Vec<Value> =
            self.database().await.run(db("todo").table("tasks").all()).await.expect("rows");
        let mut texts: Vec<String> =
            rows.iter().map(|row| row["text"].as_str().expect("a text").to_owned()).collect();
        texts.sort();
        texts
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself; either way it is collected.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let held =
        std::array::from_fn::<_, N, _>(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    held.map(|listener| listener.local_addr().expect("bound"))
}

fn certify(folder: &Path) -> [std::path::PathBuf; 2] {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let files = ["cert.pem", "key.pem"].map(|name| folder.join(name));
    std::fs::write(&files[0], made.cert.pem()).expect("written");
    std::fs::write(&files[1], made.signing_key.serialize_pem()).expect("written");
    files
}
