'use strict';
// Two connections whose last use has a stack that is worth keeping, interpreted and optimised: see
// ../README.md. No driver, so that little memory is read for a stack.

const net = require('node:net');
const { Writable } = require('node:stream');

// Where the lines of a script begin is known to V8 once it has told the place of an error in it.
// Else the whole text is read.
for (const fail of [() => net.connect({ port: -1 }), () => new Writable().write(null)]) {
  try {
    fail();
  } catch (error) {
    if (!error.stack.includes('node:')) throw error;
  }
}

function message(kind, text) {
  const body = Buffer.from(text);
  const head = Buffer.alloc(4);
  head.writeInt32BE(4 + body.length);
  return Buffer.concat([Buffer.from(kind), head, body]);
}

// The server waits again: ReadyForQuery is the last message.
const answer = (socket) =>
  new Promise((resolve) => {
    const look = (bytes) => {
      if (bytes.at(-6) !== 0x5a) return;
      socket.off('data', look);
      resolve();
    };
    socket.on('data', look);
  });

async function opened() {
  const { PGHOST, PGPORT, PGUSER, PGDATABASE } = process.env;
  const socket = net.connect(Number(PGPORT), PGHOST);
  const version = '\0\x03\0\0';
  socket.write(message('', `${version}user\0${PGUSER}\0database\0${PGDATABASE}\0\0`));
  await answer(socket);
  return socket;
}

const QUERY = message('Q', 'select 1\0');

function descend(socket, levels) {
  if (levels > 0) return descend(socket, levels - 1);
  return socket.write(QUERY);
}

async function 漏れ(socket) {
  const done = answer(socket);
  descend(socket, 2);
  await done;
}

// Called so often that V8 optimises it, and what it calls is inlined.
class Orders {
  async load(socket) {
    const done = answer(socket);
    this.read(socket);
    await done;
  }

  read(socket) {
    return this.send(socket, QUERY);
  }

  send(socket, query) {
    return socket.write(query);
  }
}

async function main() {
  await 漏れ(await opened());
  // Until it has been looked at.
  await new Promise((resolve) => setTimeout(resolve, 2000));
  const socket = await opened();
  const orders = new Orders();
  for (let i = 0; i < 20_000; i += 1) await orders.load(socket);
}

// Somebody looks by now.
process.stdin.once('data', main);
