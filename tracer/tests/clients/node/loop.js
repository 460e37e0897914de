'use strict';
// What all libraries' clients share: the commands, read line by line and answered one by one, the
// pace of a user's requests, and an outside service to wait for. See ../README.md.

const http = require('node:http');
const readline = require('node:readline');

// Requests of one user come at a pace; without it no connection would ever sit.
const PACE_MS = 100;
// ... and some come after a while.
const LATER_MS = 1200;
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const pace = () => sleep(PACE_MS);

async function repeat(count, step) {
  for (let i = 0; i < Number(count); i += 1) {
    await step();
    await pace();
  }
}

// Someone else's service: it answers after so many milliseconds, or when it is told to.
const outside = {
  server: null,
  waiting: [],
  async call(milliseconds) {
    if (!outside.server) {
      const server = http.createServer((request, response) => {
        const after = new URL(request.url, 'http://outside').searchParams.get('after');
        if (after) setTimeout(() => response.end('done'), Number(after));
        else outside.waiting.push(response);
      });
      await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
      outside.server ??= server;
    }
    const { port } = outside.server.address();
    const after = milliseconds ? `?after=${milliseconds}` : '';
    await new Promise((resolve, reject) => {
      const request = http.get(`http://127.0.0.1:${port}/${after}`, (response) => {
        response.resume().on('end', resolve);
      });
      request.on('error', reject);
    });
  },
  answer() {
    for (const response of outside.waiting.splice(0)) response.end('done');
  },
};

// Leaves a task behind, as a server does with a request whose client has gone.
function abandon(task) {
  task.catch((error) => console.log(`error ${error.message}`));
}

// The same where the task, which is given what to wait for, waits for somebody outside.
function leaveOutside(start) {
  return new Promise((resolve, reject) => {
    const answer = () => {
      resolve();
      return outside.call();
    };
    start(answer).catch(reject);
  });
}

// Gives up on such a task after a while; the task itself goes on.
async function giveUpOn(start) {
  let task;
  const reached = leaveOutside((answer) => {
    task = start(answer);
    return task;
  });
  const late = reached.then(pace).then(() => {
    throw new Error('too late');
  });
  try {
    await Promise.race([task, late]);
    throw new Error('the task was in time');
  } catch (error) {
    if (error.message !== 'too late') throw error;
  }
}

// The same with a signal that the task is expected to look at.
async function abort(start) {
  const controller = new AbortController();
  const task = start(controller.signal);
  controller.abort();
  try {
    await task;
    throw new Error('the task was not aborted');
  } catch (error) {
    if (error.name !== 'AbortError') throw error;
  }
}

// That this fails is what is wanted.
async function failing(task, kind) {
  try {
    await task;
  } catch (error) {
    if (error instanceof kind) return;
    throw error;
  }
  throw new Error('it did not fail');
}

// `library`: `versions`, what it is made of; `healthy`, one request done right; `leaks`, one
// function for each shape of the bug; `rounds`, other things done again and again, each a command
// of its name with a count; `commands`, everything else.
function commandsOf(library) {
  const shape = (name) => {
    const found = library.leaks?.[name];
    if (!found) throw new Error(`no shape ${name}`);
    return found;
  };
  const rounds = Object.entries({ healthy: library.healthy, ...library.rounds });
  return {
    // Each leak is followed by a healthy request, which finds the pool empty and opens a
    // connection: N stay out, one is idle at the end.
    leak: (name, count) => {
      const step = shape(name);
      return repeat(count, async () => {
        await step();
        await pace();
        await library.healthy();
      });
    },
    // Only leaks: after the last one nothing opens a connection any more. N stay out, none is
    // idle.
    leak_alone: (name, count) => repeat(count, shape(name)),
    answer: () => outside.answer(),
    later: () => sleep(LATER_MS),
    ...Object.fromEntries(rounds.map(([name, step]) => [name, (count) => repeat(count, step)])),
    ...library.commands,
  };
}

async function run(library) {
  const commands = commandsOf(library);
  console.log(`ready ${process.pid} ${library.versions}, Node ${process.versions.node}`);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [verb, ...args] = line.trim().split(/\s+/);
    if (verb === 'quit') break;
    try {
      if (!commands[verb]) throw new Error(`no command ${verb}`);
      await commands[verb](...args);
      console.log(`done ${line.trim()}`);
    } catch (error) {
      console.log(`error ${error.message}`);
    }
  }
  process.exit(0);
}

// Name and version of packages, as they are installed: not all of them export their description.
function versions(...packages) {
  const fs = require('node:fs');
  const path = require('node:path');
  const version = (name) => {
    const file = path.join(process.env.NODE_PATH, name, 'package.json');
    return JSON.parse(fs.readFileSync(file, 'utf8')).version;
  };
  return packages.map((name) => `${name} ${version(name)}`).join(', ');
}

module.exports = {
  abandon,
  abort,
  failing,
  giveUpOn,
  leaveOutside,
  outside,
  pace,
  repeat,
  run,
  sleep,
  versions,
};
