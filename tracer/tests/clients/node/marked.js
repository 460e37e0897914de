'use strict';
// node-postgres with a file loaded first that marks its checkouts: leaks that show nobody's code when
// they send, and healthy programs that give clients back in every way there is. Loaded as modules
// import it.

const { pathToFileURL } = require('node:url');
const { failing, pace, sleep, versions } = require('./loop');

// What it is used for is put off to the event loop, where nobody's code is on the stack.
async function fromTheLoop(pool) {
  const client = await pool.connect(); // LEAK-LINE from_the_loop
  await new Promise((done) => setImmediate(client.query.bind(client), 'select 1', done));
}

// The only client is out: this one is handed over by whoever gives it back.
function whenThereIsOne(pool, done) {
  pool.connect((error, client) => { // LEAK-LINE waiting
    client.query('select 1', done);
  });
}

async function waiting(open) {
  const pool = open({ max: 1 });
  const other = await pool.connect();
  const taken = new Promise((done) => whenThereIsOne(pool, done));
  await other.query('select 1');
  other.release();
  await taken;
}

// A helper of the application, and who called it across a pause.
const helper = (pool) => pool.connect(); // LEAK-LINE helper

async function throughHelper(pool) {
  await pace();
  const client = await helper(pool);
  await new Promise((done) => setImmediate(client.query.bind(client), 'select 1', done));
}

// Healthy, each in its own way.

const byCallback = (pool) =>
  new Promise((resolve, reject) => {
    pool.connect((error, client, done) => {
      if (error) return reject(error);
      client.query('select 1', (failed) => {
        done(failed);
        resolve();
      });
    });
  });

// As node-postgres' guide has it, to see who forgets.
async function replaced(pool) {
  const client = await pool.connect();
  const { query, release } = client;
  client.query = (...given) => query.apply(client, given);
  client.release = () => {
    client.query = query;
    client.release = release;
    return release.apply(client);
  };
  await client.query('select 1');
  client.release();
}

async function releasedTwice(pool) {
  const client = await pool.connect();
  await client.query('select 1');
  client.release();
  await failing(Promise.resolve().then(() => client.release()), Error);
}

async function destroyed(pool) {
  const client = await pool.connect();
  await client.query('select 1');
  client.release(true);
}

// Whoever waits is given the client within the call that gives it back.
async function handedOver(open) {
  const pool = open({ max: 1 });
  const client = await pool.connect();
  const next = pool.query('select 2');
  await client.query('select 1');
  client.release();
  await next;
}

async function tooLate(open) {
  const pool = open({ max: 1 });
  const client = await pool.connect();
  // Only now: a server may be slow to answer.
  pool.options.connectionTimeoutMillis = 50;
  await failing(pool.connect(), Error);
  await client.query('select 1');
  client.release();
}

module.exports = (given) => {
  let Pool;
  const open = (more) => new Pool({ max: 60, ...given, ...more });
  let pool;
  // Before the first of them.
  const with_pool = (step) => async (...args) => {
    if (!pool) {
      ({ default: { Pool } } = await import(pathToFileURL(require.resolve('pg'))));
      pool = open();
    }
    return step(...args);
  };
  const all = (steps) =>
    Object.fromEntries(Object.entries(steps).map(([name, step]) => [name, with_pool(step)]));
  return {
    versions: versions('pg'),
    healthy: with_pool(() => pool.query('select 1')),
    leaks: all({
      from_the_loop: () => fromTheLoop(pool),
      waiting: () => waiting(open),
      helper: () => throughHelper(pool),
      never_used: () => require('./leaks').neverUsed(pool),
    }),
    commands: all({
      every_way: async () => {
        for (const way of [byCallback, replaced, releasedTwice, destroyed]) await way(pool);
        for (const way of [handedOver, tooLate]) await way(open);
        // All at once, and again.
        for (let i = 0; i < 2; i += 1) {
          await Promise.all(Array.from({ length: 11 }, () => byCallback(pool)));
          await sleep(100);
        }
      },
    }),
  };
};
