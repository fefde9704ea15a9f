//! Forks a runtime that does not run on forkio's selector, which is to be refused.

use forkio::{Fork, ForkError, Prefork, PreforkError, ProcessRuntime, RuntimeError};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn main() {
    let attempt = || runtime().block_on(forkio::fork());
    let check = |result: Result<Fork, ForkError>| {
        let error = result.expect_err("a fork that is refused");
        assert!(matches!(error, ForkError::ForeignSelector), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("[patch.crates-io]\nmio = {"), "{text}");
    };
    check(attempt());

    let prefork = runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        Prefork::new().listener(listener).workers(1).run(async |_| ()).await
    });
    let error = prefork.expect_err("a server that does not start");
    assert!(matches!(error, PreforkError::Fork(ForkError::ForeignSelector)), "{error:?}");
    assert!(error.to_string().contains("[patch.crates-io]"), "{error}");

    let error = ProcessRuntime::new(|| Ok(runtime())).get().expect_err("a runtime that is refused").to_string();
    assert!(error.contains("[patch.crates-io]"), "{error}");

    // One of forkio's selectors in the process does not make the runtime one of them.
    let _other = forkio_reactor::Poll::new().expect("a selector");
    check(attempt());
    let cell = ProcessRuntime::new(|| Ok(runtime()));
    let refused = cell.get();
    assert!(matches!(refused, Err(RuntimeError::ForeignSelector)), "{refused:?}");
    println!("refused");
}
