//! nginx, configured to do no more than the other servers.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::Command;

use crate::plan::Plan;

/// Writes a configuration; returns the command. `options` are those of the directive `listen`.
pub(crate) fn nginx(plan: &Plan, workers: usize, options: &str, address: SocketAddr) -> io::Result<Command> {
    let directory = plan.program(format!("nginx-{workers}{options}"));
    fs::create_dir_all(&directory)?;
    let directory = directory.canonicalize()?;
    let root = directory.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {root}/{kind};\n"))
        .concat();
    let configuration = format!(
        "daemon off;
worker_processes {workers};
pid {root}/pid;
error_log {root}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  server_tokens off;
  keepalive_requests 1000000000;
{temporary}
  server {{
    listen {address} backlog=1024 {options};
    location / {{ default_type \"text/plain; charset=utf-8\"; return 200 \"Hello, World!\"; }}
  }}
}}
"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&directory).arg("-c").arg(&file).arg("-e").arg(directory.join("error.log"));
    Ok(command)
}
