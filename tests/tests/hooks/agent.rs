//! The whole of it: nodetls itself, and a server that speaks TLS only.

use nodetls_tests::{ADDRESS, World, binary, text};

use crate::rig::{NotHere, Outcome, kernel};
use crate::{Group, Row};

pub(crate) const AGENT: Group = Group {
    title: "nodetls",
    rows: &[
        Row {
            name: "agent::secures",
            asserted: "`nodetls agent`: a plain HTTP client of a targeted Service gets its answer by verified TLS.",
            test: secures,
        },
        Row {
            name: "agent::killed",
            asserted: "Killed, clients are refused; a new one takes over, and they are served.",
            test: killed,
        },
        Row {
            name: "agent::exec",
            asserted: "`nodetls exec`: the same for one command, without an agent.",
            test: exec,
        },
    ],
};

const GET: &str = "GET /get HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n";

/// A world with an agent; where there is none for this kernel, it has said so.
fn with_agent() -> Result<World, NotHere> {
    if kernel() >= (5, 17) {
        return Ok(World::with_echo().0);
    }
    let (mut world, _ca) = World::without_agent();
    world.launch_agent_for(&world.pod.clone());
    world.wait("the agent says what it needs", |world| {
        world.log().contains("Linux 5.17 or newer")
    });
    Err(NotHere::Refused("Linux 5.17"))
}

#[track_caller]
fn is_served(answer: &str) {
    let served =
        answer.contains("200 OK") && answer.contains("\"serverName\": \"www.example.com\"");
    assert!(served, "{answer}");
}

fn secures() -> Outcome {
    let world = with_agent()?;
    is_served(&world.dial(&[ADDRESS, "--send", GET]));
    Ok("")
}

fn killed() -> Outcome {
    let mut world = with_agent()?;
    world.kill_agent();
    let answer = world.dial(&[ADDRESS, "--send", GET]);
    assert!(answer.contains("error: ConnectionRefused"), "{answer}");
    world.start_agent();
    is_served(&world.dial(&[ADDRESS, "--send", GET]));
    Ok("")
}

fn exec() -> Outcome {
    let (world, _ca) = World::without_agent();
    let mut exec = world.exec(&[&binary("dial"), ADDRESS, "--send", GET]);
    let answer = text(&exec.output().unwrap());
    if kernel() < (5, 17) {
        assert!(answer.contains("Linux 5.17 or newer"), "{answer}");
        return Err(NotHere::Refused("Linux 5.17"));
    }
    is_served(&answer);
    Ok("")
}
