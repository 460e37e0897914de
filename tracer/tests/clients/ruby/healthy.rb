# frozen_string_literal: true

# The same work done right. Nothing in this file may ever be reported.
module Healthy
  module_function

  def with_block(pool)
    pool.with { |connection| connection.exec('select 1') }
  end

  def transaction(pool)
    pool.with do |connection|
      connection.transaction { |transaction| transaction.exec('select 1') }
    end
  end

  def single_rows(pool)
    pool.with do |connection|
      connection.send_query('select g from generate_series(1, 100) g')
      connection.set_single_row_mode
      connection.get_result.stream_each { |row| row }
      # The end of the answer.
      connection.get_result
    end
  end

  # Held while the server works: active, however long.
  def long_query(connection, seconds)
    connection.send_query_params('select pg_sleep($1)', [seconds])
  end

  # Held for ever on purpose: notifications come when they come.
  def listen(connection)
    connection.exec('listen orders')
  end

  # Held for ever on purpose: the session is the lock.
  def advisory_lock(connection, key)
    connection.exec_params('select pg_advisory_lock($1)', [key])
  end

  # A COPY FROM STDIN that has got one row and waits for more.
  def copy_in(connection)
    connection.exec('create temporary table copied (n int)')
    connection.exec('copy copied from stdin')
    connection.put_copy_data("1\n")
    connection.flush
  end
end
