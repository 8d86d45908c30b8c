# PostgreSQL from Debian's package, for docker/compose.yaml; its base is made by docker/base-image.
ARG BASE=praetor-postgres-base:latest

FROM ${BASE}
RUN install -d -o postgres -g postgres -m 0700 /var/lib/praetor-postgres \
 && install -d -o postgres -g postgres /run/postgresql
COPY docker/postgres-start /usr/local/bin/postgres-start
RUN chmod 0755 /usr/local/bin/postgres-start
USER postgres
VOLUME /var/lib/praetor-postgres
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["postgres-start"]
