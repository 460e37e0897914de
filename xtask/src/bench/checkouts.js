'use strict';
// Sequential checkouts for so many seconds, plain or behind the usual in-process leak detector.
// Reads `plain SECONDS` or `wrapped SECONDS`, answers with checkouts per second,
// on the wall and of this process's processor time; `count NUMBER` checks out so many times.

const readline = require('node:readline');
const Pool = require('pg-pool');

const pool = new Pool({ max: 10, idleTimeoutMillis: 0 });

async function plain() {
  const client = await pool.connect();
  try {
    await client.query('select 1');
  } finally {
    client.release();
  }
}

// Who holds what since when, a stack for each checkout, and a timer that would tell.
const out = new Map();
const THRESHOLD_MS = 30_000;

async function connect() {
  const client = await pool.connect();
  const release = client.release;
  const { stack } = new Error();
  const timer = setTimeout(() => console.error(`held for long: ${stack}`), THRESHOLD_MS);
  out.set(client, { stack, since: Date.now() });
  client.release = (error) => {
    clearTimeout(timer);
    out.delete(client);
    client.release = release;
    return release.call(client, error);
  };
  return client;
}

async function wrapped() {
  const client = await connect();
  try {
    await client.query('select 1');
  } finally {
    client.release();
  }
}

async function rate(checkout, seconds) {
  const used = process.cpuUsage();
  const begin = process.hrtime.bigint();
  const end = begin + BigInt(Math.round(seconds * 1e9));
  let count = 0;
  let now = begin;
  while (now < end) {
    await checkout();
    count += 1;
    now = process.hrtime.bigint();
  }
  const { user, system } = process.cpuUsage(used);
  return [(count * 1e9) / Number(now - begin), (count * 1e6) / (user + system)];
}

async function main() {
  console.log('ready');
  const kinds = { plain, wrapped };
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [kind, seconds] = line.split(' ');
    if (kind === 'count') {
      for (let i = 0; i < Number(seconds); i += 1) await plain();
      console.log('done');
      continue;
    }
    console.log((await rate(kinds[kind], Number(seconds))).join(' '));
  }
  process.exit(0);
}

main();
