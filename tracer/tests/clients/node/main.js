'use strict';
// A node-postgres client that does what it is told, line by line: see ../README.md.

const readline = require('node:readline');
const Pool = require('pg-pool');
const leaks = require('./leaks');
const healthy = require('./healthy');

// Pool options as JSON on the command line, for example {"idleTimeoutMillis":0}.
const options = { max: 60, ...JSON.parse(process.argv[2] ?? '{}') };
const pool = new Pool(options);
const second = new Pool(options);
for (const each of [pool, second]) {
  each.on('error', (error) => console.log(`error idle connection: ${error.message}`));
}

// Requests of one user come at a pace; without it no connection would ever sit.
const PACE_MS = 100;
const pace = () => new Promise((resolve) => setTimeout(resolve, PACE_MS));

const shapes = {
  forgotten: () => leaks.forgottenRelease(pool),
  // Two good calls for each bad one: the path leaks sometimes.
  early_return: async () => {
    await leaks.earlyReturn(pool, 1);
    await pace();
    await leaks.earlyReturn(pool, 2);
    await pace();
    await leaks.earlyReturn(pool, 1000);
  },
  throw: async () => {
    await leaks.throwBeforeRelease(pool, '{"fine": true}');
    await pace();
    try {
      await leaks.throwBeforeRelease(pool, '{"broken": ');
      throw new Error('the broken document was parsed');
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
    }
  },
  never_used: () => leaks.neverUsed(pool),
  idle_in_transaction: () => leaks.idleInTransaction(pool),
};

function shape(name) {
  const found = shapes[name];
  if (!found) throw new Error(`no shape ${name}`);
  return found;
}

async function repeat(count, step) {
  for (let i = 0; i < Number(count); i += 1) {
    await step();
    await pace();
  }
}

const commands = {
  // Each leak is followed by a healthy request, which finds the pool empty and opens a
  // connection: N stay out, one is idle at the end.
  leak: (name, count) => {
    const step = shape(name);
    return repeat(count, async () => {
      await step();
      await pace();
      await healthy.tryFinally(pool);
    });
  },
  // Only leaks: after the last one nothing opens a connection any more. N stay out, none is idle.
  leak_alone: (name, count) => repeat(count, shape(name)),
  // Pools that are never ended, each with one connection: at once when a program starts, and for
  // each request.
  several_pools: async (count) => {
    for (let i = 0; i < Number(count); i += 1) await leaks.newPool(Pool, options);
  },
  new_pool: (count) => repeat(count, () => leaks.newPool(Pool, options)),
  new_pool_client: (count) => repeat(count, () => leaks.newPoolClient(Pool, options)),
  returned_in_transaction: (count) => repeat(count, () => leaks.returnedInTransaction(pool)),
  healthy: (count) => repeat(count, () => healthy.tryFinally(pool)),
  transaction: (count) => repeat(count, () => healthy.transaction(pool)),
  pool_query: (count) => repeat(count, () => healthy.poolQuery(pool)),
  burst: (count) => healthy.burst(pool, Number(count)),
  listen: () => healthy.listen(pool),
  advisory_lock: (key) => healthy.advisoryLock(pool, Number(key)),
  copy: () => healthy.copyIn(pool),
  // Answered when the statement is on its way.
  hold_query: (seconds) => {
    healthy.longQuery(pool, Number(seconds)).catch((error) => console.log(`error ${error.message}`));
  },
  // Two pools with one data source, used in turn.
  two_pools: (count) =>
    repeat(count, async () => {
      await healthy.tryFinally(pool);
      await pace();
      await healthy.tryFinally(second);
    }),
};

async function main() {
  const { version } = require('pg/package.json');
  console.log(`ready ${process.pid} pg ${version}, Node ${process.versions.node}`);
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

main();
