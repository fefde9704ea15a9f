//! The contents of the page and of its JSON.

use std::time::Duration;

use forkio_tests::http::send;
use forkio_tests::{kill, scenarios, wait_until};

use crate::server::{Server, is_serving, pids, request, serving, state_at, workers};

scenarios!(
    /// The JSON shows the workers, and counts their requests.
    fn workers_and_requests() {
        let server = Server::start(&[]);
        let state = server.until("both workers are ready", |state| {
            workers(state).len() == 2 && workers(state).iter().all(is_serving)
        });
        assert_eq!(state["server"]["pid"], server.supervisor());
        assert_eq!(state["server"]["state"], "serving");
        assert_eq!((&state["server"]["generation"], &state["server"]["wanted"]), (&1.into(), &2.into()));
        for _ in 0..20 {
            assert!(pids(&state).contains(&server.pid().into()), "the worker that answered is not shown");
        }
        let state = server.until("the requests are counted", |state| state["requests"] == 20);
        let by_workers = workers(&state).iter().map(|worker| worker["requests"].as_u64().expect("a count"));
        assert_eq!(by_workers.sum::<u64>(), 20);
        assert!(state["latency"]["count"].as_u64() >= Some(1), "the first request of a worker is timed: {state}");
        assert!(state["latency"]["p99"].as_f64() > Some(0.0), "{state}");
        #[cfg(procfs)]
        for worker in workers(&state) {
            let memory = &worker["memory"];
            let [rss, pss, shared] = ["rss", "pss", "shared"].map(|name| memory[name].as_u64().expect("memory"));
            assert!(pss > 0 && pss <= rss && shared < rss, "{memory}");
        }
        server.until("there is a history", |state| state["history"].as_array().is_some_and(|notes| notes.len() > 1));
        server.stop();
    }

    /// A worker is busy while a request is in flight, and its connections are counted.
    fn busy_worker() {
        let server = Server::start(&["--workers", "1", "--shutdown-timeout", "0"]);
        server.until("a worker is idle", |state| workers(state).iter().any(|worker| worker["state"] == "ready"));
        let held = send(&server.address, "GET", "/forever").expect("a request");
        let state = server.until("the worker is busy", |state| workers(state)[0]["state"] == "busy");
        assert_eq!(workers(&state)[0]["requests_in_flight"], 1);
        assert_eq!(workers(&state)[0]["connections"], 1);
        drop(held);
        server.until("the worker is idle again", |state| workers(state)[0]["state"] == "ready");
        server.stop();
    }

    /// During a reload, the page shows both generations until the old one has drained.
    fn generations_side_by_side() {
        let server = Server::start(&["--workers", "1", "--shutdown-timeout", "600"]);
        let held = server.hold_request();
        server.program.signal(libc::SIGHUP);
        let state = server.until("the old worker drains", |state| {
            workers(state).len() == 2 && workers(state)[0]["state"] == "draining" && is_serving(&workers(state)[1])
        });
        let generations = workers(&state).iter().map(|worker| worker["generation"].as_u64());
        assert_eq!(generations.collect::<Vec<_>>(), [Some(1), Some(2)]);
        drop(held);
        let state = server.until("the old worker has ended", |state| state["restarts"][0]["reason"] == "reload");
        assert_eq!((&state["restarts"][0]["generation"], &state["restarts"][0]["exit_code"]), (&1.into(), &0.into()));
        assert_eq!(state["server"]["generation"], 2);
        server.stop();
    }

    /// A worker that dies is listed with the reason, and its requests still count.
    fn restarts_have_reasons() {
        let server = Server::start(&[]);
        let victim = server.pid();
        let requests = server.state()["requests"].as_u64().expect("a count");
        kill(victim, libc::SIGKILL);
        let state = server.until("the worker is listed", |state| state["restarts"][0]["pid"] == victim);
        assert_eq!((&state["restarts"][0]["reason"], &state["restarts"][0]["signal"]), (&"died".into(), &9.into()));
        assert!(state["requests"].as_u64() >= Some(requests), "requests are lost: {state}");
        let ended = state["ended"].as_array().expect("counts");
        assert!(ended.iter().any(|ended| ended["reason"] == "died" && ended["count"] == 1), "{state}");
        server.until("the worker is replaced", |state| serving(state) == 2);
        server.stop();
    }

    /// The page shows the state of the JSON as HTML, and refers to no other origin.
    fn html() {
        let server = Server::start(&[]);
        let state = server.until_two_serve();
        let page = request(&server.page, "GET", "/status");
        assert_eq!(page.status, 200);
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        let html = page.text();
        for pid in pids(&state) {
            assert!(html.contains(&format!(">{pid}</td>")), "{pid} is missing: {}", html);
        }
        for part in
            ["<noscript><meta http-equiv=\"refresh\"", "Generation 1", "state ready", "<svg", "requests per second"]
        {
            assert!(html.contains(part), "{part} is missing: {}", html);
        }
        assert!(!html.contains("://") && !html.contains("src="), "the page refers to another origin");
        server.stop();
    }

    /// `/readyz` tells load balancers when to send no more connections. `/healthz` shows whether the server runs.
    fn probes() {
        let server = Server::start(&["--lame-duck", "600"]);
        wait_until("the server is ready", || request(&server.page, "GET", "/readyz").status == 200);
        server.program.signal(libc::SIGTERM);
        wait_until("the server is not ready", || request(&server.page, "GET", "/readyz").status == 503);
        assert_eq!(request(&server.page, "GET", "/healthz").status, 200);
        assert_eq!(server.state()["server"]["state"], "lame-duck");
        assert!(server.pid() > 0, "the server still serves");
        // Wait: a second signal shortly after the first one does not count, and a third one would kill the workers.
        std::thread::sleep(Duration::from_millis(200));
        server.program.signal(libc::SIGTERM);
        wait_until("the server stops", || {
            state_at(&server.page).is_none_or(|state| state["server"]["state"] != "lame-duck")
        });
        server.stop();
    }

    /// While the server stops, the page shows how it drains.
    fn stopping() {
        let server = Server::start(&["--workers", "1", "--shutdown-timeout", "600"]);
        let held = server.hold_request();
        server.program.signal(libc::SIGTERM);
        let state = server.until("the server drains", |state| state["server"]["state"] == "stopping");
        assert_eq!(workers(&state)[0]["state"], "draining");
        drop(held);
        server.program.finish_well();
    }
);
