'use strict';
// TypeORM, whose pool is pg-pool.

const { DataSource } = require('typeorm');
const { abort, failing, giveUpOn, leaveOutside, pace, versions } = require('./loop');

function open(options) {
  const { PGHOST: host, PGPORT: port, PGUSER: username, PGDATABASE: database } = process.env;
  const source = { type: 'postgres', host, port: Number(port), username, database };
  return new DataSource({ ...source, extra: { max: 40, ...options } });
}

async function forgottenRelease(source) {
  const runner = source.createQueryRunner();
  await runner.query('select 1');
}

async function earlyReturn(source, id) {
  const runner = source.createQueryRunner();
  const rows = await runner.query('select g from generate_series(1, 3) g where g = $1', [id]);
  if (rows.length === 0) {
    return null;
  }
  await runner.release();
  return rows[0].g;
}

async function throwBeforeRelease(source, text) {
  const runner = source.createQueryRunner();
  const rows = await runner.query('select $1::text as document', [text]);
  const document = JSON.parse(rows[0].document);
  await runner.release();
  return document;
}

async function neverUsed(source) {
  await source.createQueryRunner().connect();
}

async function idleInTransaction(source) {
  const runner = source.createQueryRunner();
  await runner.startTransaction();
  await runner.query('select 1');
}

async function heldWhileOutside(source, answer) {
  const runner = source.createQueryRunner();
  await runner.query('select 1');
  await answer();
  await runner.release();
}

async function abortedTask(source, signal) {
  const runner = source.createQueryRunner();
  await runner.query('select 1');
  signal.throwIfAborted();
  await runner.release();
}

async function transactionWhileOutside(source, answer) {
  await source.transaction(async (manager) => {
    await manager.query('select 1');
    await answer();
  });
}

// Looks at the first row of a stream and forgets the rest.
async function streamLeftOpen(source) {
  const runner = source.createQueryRunner();
  const stream = await runner.stream('select generate_series(1, 1000)');
  await new Promise((resolve, reject) => {
    stream.once('error', reject);
    // Its read asks the server for more.
    stream.once('readable', function firstRow() {
      resolve(stream.read());
    });
  });
}

async function returnedInTransaction(source) {
  const runner = source.createQueryRunner();
  await runner.query('begin');
  await runner.query('select 1');
  await runner.release();
}

async function newPoolPerRequest(options) {
  const source = open(options);
  await source.initialize();
  await source.query('select 1');
}

async function query(source) {
  await source.query('select 1');
}

async function transaction(source) {
  await source.transaction((manager) => manager.query('select 1'));
}

async function released(source) {
  const runner = source.createQueryRunner();
  try {
    await runner.query('select 1');
  } finally {
    await runner.release();
  }
}

module.exports = (options) => {
  const source = open(options);
  // As applications do at their start; here at the first request.
  let initialized = null;
  const ready = (work) => async () => {
    initialized ??= source.initialize();
    await initialized;
    await work();
  };
  return {
    versions: versions('typeorm', 'pg'),
    healthy: ready(() => query(source)),
    leaks: {
      forgotten: ready(() => forgottenRelease(source)),
      early_return: ready(async () => {
        await earlyReturn(source, 1);
        await pace();
        await earlyReturn(source, 1000);
      }),
      throw: ready(async () => {
        await throwBeforeRelease(source, '{"fine": true}');
        await pace();
        await failing(throwBeforeRelease(source, '{"broken": '), SyntaxError);
      }),
      never_used: ready(() => neverUsed(source)),
      idle_in_transaction: ready(() => idleInTransaction(source)),
      late: ready(() => giveUpOn((answer) => transactionWhileOutside(source, answer))),
      aborted: ready(() => abort((signal) => abortedTask(source, signal))),
      outside: ready(() => leaveOutside((answer) => heldWhileOutside(source, answer))),
      stream: ready(() => streamLeftOpen(source)),
      returned_in_transaction: ready(() => returnedInTransaction(source)),
      new_pool: () => newPoolPerRequest(options),
    },
    rounds: { transaction: ready(() => transaction(source)), released: ready(() => released(source)) },
    commands: {
      burst: (count) =>
        ready(() =>
          Promise.all(
            Array.from({ length: Number(count) }, () => source.query('select pg_sleep(0.1)')),
          ),
        )(),
    },
  };
};
