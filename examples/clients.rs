//! An HTTP client and a random generator that exist before the fork.
//!
//! The client's idle connections are severed in the child, so the child's client connects again. The generator gets a new seed.
//!
//! ```sh
//! cargo run --release --example clients -- 127.0.0.1:8080
//! ```

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use std::error::Error;

use forkio::Fork;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

type HttpClient = Client<HttpConnector, Empty<Bytes>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    let client: HttpClient = Client::builder(TokioExecutor::new()).build_http();
    let _first: u64 = rand::random(); // The generator of this thread exists now, and the child has a copy.
    forkio::on_child(|_| rand::rng().reseed().expect("random numbers from the system"));

    show("parent", &client, &address).await?;
    match forkio::fork().await? {
        Fork::Parent(mut child) => {
            child.wait().await?;
            show("parent", &client, &address).await?;
        }
        Fork::Child(_) => {
            // Lets the tasks of the severed connections run. Each tells the client that its connection has ended.
            tokio::task::yield_now().await;
            show("child", &client, &address).await?;
        }
    }
    Ok(())
}

async fn show(process: &str, client: &HttpClient, address: &str) -> Result<(), Box<dyn Error>> {
    let response = client.get(format!("http://{address}/").parse()?).await?;
    let body = response.into_body().collect().await?.to_bytes();
    println!("{process}: {}, {}", String::from_utf8_lossy(&body).trim_end(), rand::random::<u64>());
    Ok(())
}
