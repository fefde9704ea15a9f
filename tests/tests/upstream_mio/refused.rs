//! Without the patch, on systems without epoll, forkio refuses to fork, and says which lines to add.

use forkio_tests::runtime::*;

scenarios!(
    /// `fork`, `Prefork` and `ProcessRuntime` return errors that show the lines of the patch.
    #[limit(900)]
    fn without_the_patch() {
        let attempt = || current_thread().block_on(forkio::fork());
        let check = |result: Result<Fork, ForkError>| {
            let error = result.expect_err("a fork that is refused");
            assert!(matches!(error, ForkError::ForeignSelector), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("[patch.crates-io]\nmio = {"), "{text}");
        };
        check(attempt());

        let prefork = current_thread()
            .block_on(async { Prefork::new().listener(listener().await).workers(1).run(async |_| ()).await });
        let error = prefork.expect_err("a server that does not start");
        assert!(matches!(error, PreforkError::Fork(ForkError::ForeignSelector)), "{error:?}");
        assert!(error.to_string().contains("[patch.crates-io]"), "{error}");

        let error =
            ProcessRuntime::new(|| Ok(current_thread())).get().expect_err("a runtime that is refused").to_string();
        assert!(error.contains("[patch.crates-io]"), "{error}");

        // A selector of forkio in the process changes nothing.
        let _other = forkio_reactor::Poll::new().expect("a selector");
        check(attempt());
        let cell = ProcessRuntime::new(|| Ok(current_thread()));
        let refused = cell.get();
        assert!(matches!(refused, Err(RuntimeError::Check(ForkError::ForeignSelector))), "{refused:?}");
    }
);
