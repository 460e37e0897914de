'use strict';
// node-postgres with pg-pool.

const pg = require('pg');
const Pool = require('pg-pool');
const {
  abandon,
  abort,
  failing,
  giveUpOn,
  leaveOutside,
  outside,
  pace,
  repeat,
  sleep,
  versions,
} = require('./loop');
const leaks = require('./leaks');
const healthy = require('./healthy');

module.exports = (given) => {
  const options = { max: 60, ...given };
  const open = (more = {}) => {
    const pool = new Pool({ ...options, ...more });
    pool.on('error', (error) => console.log(`error idle connection: ${error.message}`));
    return pool;
  };
  const pool = open();
  const second = open();
  // Other pools in the same process: another database, and another user. Made when first asked for.
  const others = {};
  const other = (where) => (others[JSON.stringify(where)] ??= open(where));

  return {
    versions: versions('pg'),
    healthy: () => healthy.tryFinally(pool),
    leaks: {
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
        await failing(leaks.throwBeforeRelease(pool, '{"broken": '), SyntaxError);
      },
      never_used: () => leaks.neverUsed(pool),
      idle_in_transaction: () => leaks.idleInTransaction(pool),
      failed_transaction: () => failing(leaks.failedTransaction(pool), pg.DatabaseError),
      late: () => giveUpOn((answer) => leaks.heldWhileOutside(pool, answer)),
      aborted: () => abort((signal) => leaks.abortedTask(pool, signal)),
      outside: () => leaveOutside((answer) => leaks.heldWhileOutside(pool, answer)),
      cursor: () => leaks.cursorLeftOpen(pool),
      returned_in_transaction: () => leaks.returnedInTransaction(pool),
      new_pool: () => leaks.newPool(open),
    },
    rounds: {
      transaction: () => healthy.transaction(pool),
      pool_query: () => healthy.poolQuery(pool),
      cursor: () => healthy.cursor(pool),
      queued: () => healthy.queued(pool),
      in_time: () => healthy.outsideFirst(pool, () => outside.call(1)),
      // Two pools with one data source, used in turn.
      two_pools: async () => {
        await healthy.tryFinally(pool);
        await pace();
        await healthy.tryFinally(second);
      },
      pool_for_each: () => healthy.poolForEach(open),
      new_pool: () => leaks.newPool(open),
      new_pool_client: () => leaks.newPoolClient(open),
      returned_in_transaction: () => leaks.returnedInTransaction(pool),
    },
    commands: {
      // Without a pause, as when a program starts.
      several_pools: async (count) => {
        for (let i = 0; i < Number(count); i += 1) await leaks.newPool(open);
      },
      burst: (count) => healthy.burst(pool, Number(count)),
      database_burst: (database, count) => healthy.burst(other({ database }), Number(count)),
      user_burst: (user, count) => healthy.burst(other({ user }), Number(count)),
      user_leak: (user, count) =>
        repeat(count, () => leaks.forgottenRelease(other({ user }))),
      // So many requests one after the other, each holding a connection while somebody outside
      // answers: all of them are out when the first comes back.
      outside_burst: (count, milliseconds) =>
        Promise.all(
          Array.from({ length: Number(count) }, async (_, index) => {
            await sleep((index * milliseconds) / count);
            await healthy.heldWhileOutside(pool, () => outside.call(milliseconds));
          }),
        ),
      listen: () => healthy.listen(pool),
      advisory_lock: (key) => healthy.advisoryLock(pool, Number(key)),
      copy: () => healthy.copyIn(pool),
      keepalive: (milliseconds) => healthy.keepalive(pool, Number(milliseconds)),
      // Answered when the statement is on its way.
      hold_query: (seconds) => abandon(healthy.longQuery(pool, Number(seconds))),
    },
  };
};
