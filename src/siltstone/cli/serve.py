"""`siltstone serve`: a server with OpenAI's interface whose sessions are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siltstone.cli.arguments import THREADS, RunFolder, RuntimeName, at_least, between, integer, path, unset


def serve(
    run: RunFolder,
    store: Annotated[
        Path | None, unset("Folder for what is kept: sessions, responses, conversations. [default: none; in memory]", path, "DIR")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines reach needs --api-key-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", parser=between(0, 65535))] = 8000,
    api_key_file: Annotated[
        Path | None, unset("File with a line 'NAME sha256:DIGEST' for each key. [default: no keys]", path, "FILE")
    ] = None,
    max_sessions: Annotated[
        int, typer.Option(help="Kept sessions in memory, at most; others stay in the store's files.", parser=at_least(1))
    ] = 1024,
    max_memory: Annotated[int, typer.Option(help="Megabytes of kept sessions in memory, at most.", parser=at_least(1))] = 1024,
    slots: Annotated[int, typer.Option(help="Texts that are written together, at most.", parser=between(1, 1024))] = 64,
    queue: Annotated[int, typer.Option(help="Requests that wait for a slot, at most; others get 429.", parser=at_least(0))] = 256,
    deadline: Annotated[int, typer.Option(help="Seconds that a request may take; then it gets 504.", parser=at_least(1))] = 3600,
    ttl: Annotated[
        int | None,
        unset("Seconds after which what was not used is forgotten. [default: never]", at_least(1), "SECONDS"),
    ] = None,
    quota_sessions: Annotated[
        int | None, unset("Sessions that one key may have; more get 403. [default: no limit]", at_least(1), "INTEGER")
    ] = None,
    quota_memory: Annotated[
        int | None, unset("Megabytes of kept sessions that one key may have. [default: no limit]", at_least(1), "INTEGER")
    ] = None,
    log_format: Annotated[
        str, typer.Option(help="Lines on standard error, one a request, without text: plain, json or none.", metavar="NAME")
    ] = "plain",
    name: Annotated[str | None, typer.Option(help="Name of the model. [default: that of RUN]", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(help=THREADS, parser=integer, show_default=False)] = None,
    runtime: RuntimeName = "auto",
) -> None:
    """Serve a model to clients of OpenAI's interface: chat completions, completions and responses.

    What was read once is not read again: a conversation costs its new tokens. Needs the extra `serve`:
    pip install 'siltstone[serve]'. Ctrl-C and SIGTERM stop the server when the running requests have ended (20 seconds at most).
    """
    from siltstone.cli.sessions import open_model
    from siltstone.core.terminal import say
    from siltstone.errors import ConfigError
    from siltstone.models.fingerprint import freeze

    try:
        from siltstone.serve.house import House, Limits
        from siltstone.serve.journal import FORMS
        from siltstone.serve.keys import Keys
        from siltstone.serve.run import check_public, is_public, serve
    except ImportError as error:
        raise ConfigError(f"the server needs {error.name}; install the extra: pip install 'siltstone[serve]'") from None

    if log_format not in FORMS:
        raise ConfigError(f"--log-format {log_format[:40]!r} is not one of {', '.join(FORMS)}; give one of them")
    keys = Keys() if api_key_file is None else Keys.read(api_key_file)
    check_public(host, bool(keys))
    model, tokenizer = open_model(run, device, threads)
    model = freeze(model)  # whether its weights are as they were is asked at every request: of a frozen model, at a glance
    limits = Limits(
        slots=slots,
        queue=queue,
        sessions=max_sessions,
        memory=max_memory << 20,
        deadline=deadline,
        ttl=ttl,
        quota_sessions=quota_sessions,
        quota_bytes=None if quota_memory is None else quota_memory << 20,
    )
    house = House(
        model,
        tokenizer,
        name or run.resolve().name,
        store,
        keys,
        limits,
        runtime=runtime,
        log=log_format,
        public=is_public(host),
    )
    serve(house, host, port, lambda url: say(f"serving {house.name} at {url}/v1; Ctrl-C stops"))
