"""`edgecompile devices`: what an artifact can be made to fit, and where each figure is from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgecompile.cli.options import json_option, traceback_option
from edgecompile.errors import UsageError

if TYPE_CHECKING:
    from edgecompile.device import Cluster, Device
    from edgecompile.setting import Setting


@click.command("devices")
@click.argument("name", required=False)
@click.option("--attached", is_flag=True, help="List the Android devices that adb sees instead.")
@json_option
@traceback_option
def command(name: str | None, attached: bool, as_json: bool) -> None:
    """List the devices, or show the profile of the device NAME with the source of each figure."""
    if attached and name is not None:
        raise UsageError(
            "--attached lists what adb sees, and takes no NAME",
            hint="`edgecompile validate BUNDLE --on adb:SERIAL` runs there",
        )
    if attached:
        _print_attached(as_json)
        return
    from edgecompile.cli.output import print_json, print_table
    from edgecompile.device import device_names, load_device

    if name is not None:
        device = load_device(name)
        if as_json:
            print_json(device.to_dict())
        else:
            _print_device(device)
        return
    devices = [load_device(known) for known in device_names()]
    if as_json:
        print_json({"devices": [device.to_dict() for device in devices]})
        return
    rows = [
        (
            device.name,
            device.soc,
            ", ".join(_show_cluster(cluster) for cluster in reversed(device.clusters)) or "-",
            ", ".join(device.isa) or "-",
            device.target,
        )
        for device in devices
    ]
    print_table(("device", "chip", "cores (GHz)", "all cores have", "target"), rows)


def _print_attached(as_json: bool) -> None:
    from dataclasses import asdict

    from edgecompile.cli.output import print_json, print_table
    from edgecompile.connections.adb import attached_devices

    devices = [asdict(device) for device in attached_devices()]
    if as_json:
        print_json({"attached": devices})
        return
    if not devices:
        click.echo("no device is attached to adb")
        return
    rows = [[value or "-" for value in device.values()] for device in devices]
    print_table(("serial", "state", "model", "chip", "Android", "ABI"), rows)


def _show_cluster(cluster: Cluster) -> str:
    clock = f" {cluster.clock_ghz}" if cluster.clock_ghz else ""
    return f"{cluster.count} {cluster.core}{clock}"


def _print_device(device: Device) -> None:
    from edgecompile.cli.output import print_table

    click.echo(f"{device.name}: {device.description}\n")
    shown = [figure for figure in device.figures() if figure.name not in ("name", "description")]
    rows = [(figure.name, _show_figure(figure), figure.origin or "-") for figure in shown]
    print_table(("figure", "value", "source"), rows)


def _show_figure(figure: Setting) -> str:
    from edgecompile.setting import show_value

    if figure.name.endswith((".implementer", ".part")):
        return f"{figure.value:#x}"
    return show_value(figure.value)
