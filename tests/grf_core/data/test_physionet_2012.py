from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from grf_core.data.physionet_2012 import (
    MEASURED,
    MODALITIES,
    Physionet2012DataError,
    parse_outcomes,
    parse_record,
    patient_frame,
    physionet_2012_dataset,
    read_physionet_2012,
)
from grf_core.data.physionet_2012_variables import LABS, NEURO, PATIENT, REPAIRS, VITALS, Scaling
from grf_core.data.sessions import LabelledSession, StreamFrames

Files = dict[str, str]
OUTCOMES_HEAD = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n"
OLDEST = np.float32(math.log1p(48))


def record(
    number: int, *lines: str, descriptors: Sequence[str] = ("Age,54", "Gender,0", "Height,-1", "ICUType,4")
) -> str:
    head = ["Time,Parameter,Value", f"00:00,RecordID,{number}", *(f"00:00,{line}" for line in descriptors)]
    return "\n".join([*head, "00:00,Weight,-1", *lines]) + "\n"


def outcomes(*rows: tuple[int, int]) -> str:
    return OUTCOMES_HEAD + "".join(f"{number},6,1,5,-1,{died}\n" for number, died in rows)


def write(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def two_sets() -> Files:
    return {
        "Outcomes-b.txt": outcomes((142673, 1)),
        "set-b/142673.txt": record(142673, "00:07,GCS,15"),
        "set-a/132540.txt": record(132540, "00:07,HR,73", "00:37,HR,77", "01:07,pH,7.38"),
        "set-a/132539.txt": record(132539),
        "Outcomes-a.txt": outcomes((132539, 0), (132540, 1)),
    }


def stream_of(streams: Sequence[StreamFrames], modality: str) -> StreamFrames:
    return next(stream for stream in streams if stream.modality == modality)


def columns(modality: str, variable: str) -> slice:
    """Value, measured now, age."""
    place = [of.name for of in MEASURED[modality]].index(variable)
    return slice(3 * place, 3 * place + 3)


def frames_of(*lines: str, modality: str, variable: str) -> list[list[float]]:
    stream = stream_of(parse_record("1.txt", "1", record(1, *lines)), modality)
    return [[round(value, 4) for value in row] for row in stream.frames[:, columns(modality, variable)].tolist()]


def test_stays_become_sessions_in_the_order_of_set_and_record(tmp_path: Path) -> None:
    sessions = read_physionet_2012(write(tmp_path / "physionet-2012.tar.xz", two_sets()))
    assert [(s.session, s.labels["death"]) for s in sessions] == [
        ("a-132539", "survived"),
        ("a-132540", "died"),
        ("b-142673", "died"),
    ]
    assert [[s.stream for s in session.streams] for session in sessions] == [
        ["patient"],
        ["patient", "vitals", "labs"],
        ["patient", "neuro"],
    ]
    for session in sessions:
        assert {s.modality: s.frames.shape[1] for s in session.streams}.items() <= MODALITIES.items()
        assert all(s.frames.dtype == np.float32 and np.isfinite(s.frames).all() for s in session.streams)


def test_set_a_trains_and_every_other_set_tests(tmp_path: Path) -> None:
    files = two_sets() | {"Outcomes-c.txt": outcomes((7, 0)), "set-c/7.txt": record(7)}
    dataset = physionet_2012_dataset(write(tmp_path / "physionet-2012.tar", files))
    assert [s.session for s in dataset.train] == ["a-132539", "a-132540"]
    assert [s.session for s in dataset.test] == ["b-142673", "c-7"]


def test_a_single_set_of_any_letter_is_enough(tmp_path: Path) -> None:
    files = {"x/set-c/7.txt": record(7), "x/Outcomes-c.txt": outcomes((7, 1))}
    assert [s.session for s in read_physionet_2012(write(tmp_path / "c.tar.xz", files))] == ["c-7"]


def same(ones: list[LabelledSession], others: list[LabelledSession]) -> bool:
    return [(s.session, s.labels, [t.frames.tobytes() for t in s.streams]) for s in ones] == [
        (s.session, s.labels, [t.frames.tobytes() for t in s.streams]) for s in others
    ]


def test_archive_and_unpacked_folder_are_read_alike(tmp_path: Path) -> None:
    archive = write(tmp_path / "physionet-2012.tar.xz", two_sets())
    for name, text in two_sets().items():
        (tmp_path / "open" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "open" / name).write_text(text)
    from_archive = read_physionet_2012(archive)
    assert same(from_archive, read_physionet_2012(tmp_path / "open"))
    assert same(from_archive, read_physionet_2012(tmp_path))


def test_a_stay_that_the_outcomes_do_not_name_has_no_label(tmp_path: Path) -> None:
    files = two_sets() | {"Outcomes-a.txt": outcomes((132539, 0))}
    labels = [s.labels for s in read_physionet_2012(write(tmp_path / "physionet-2012.tar", files))]
    assert labels == [{"death": "survived"}, {}, {"death": "died"}]


def test_every_one_of_the_37_variables_has_one_place() -> None:
    names = [variable.name for variables in MEASURED.values() for variable in variables]
    assert len(names) == len(set(names)) == 37


def test_a_frame_is_a_time_stamp_at_which_its_modality_was_measured() -> None:
    lines = ("00:07,HR,86", "00:07,Temp,37.1", "01:07,pH,7.38", "26:07,HR,104", "48:00,GCS,13")
    streams = parse_record("1.txt", "1", record(1, *lines))
    assert {s.modality: s.times_s.tolist() for s in streams} == {
        "patient": [0.0],
        "vitals": [7 * 60.0, (26 * 60 + 7) * 60.0],
        "labs": [67 * 60.0],
        "neuro": [48 * 3600.0],
    }


def test_values_are_carried_forward_with_their_age_and_unknown_before_the_first() -> None:
    lines = ("00:00,HR,86", "01:00,Temp,38", "03:00,HR,104", "03:30,Temp,38")
    one, half = round(math.log1p(1), 4), round(math.log1p(0.5), 4)
    assert frames_of(*lines, modality="vitals", variable="HR") == [[0, 1, 0], [0, 0, one], [1, 1, 0], [1, 0, half]]
    oldest = round(float(OLDEST), 4)
    assert frames_of(*lines, modality="vitals", variable="Temp")[:2] == [[0, 0, oldest], [1, 1, 0]]


def test_an_age_is_bounded() -> None:
    ages = frames_of("00:00,HR,86", "99:00,Temp,37", modality="vitals", variable="HR")
    assert ages[1] == [0, 0, round(float(OLDEST), 4)]


def test_frames_depend_on_nothing_later() -> None:
    rng = np.random.default_rng(0)
    names = [variable.name for variables in MEASURED.values() for variable in variables]
    minutes = np.sort(rng.integers(1, 2880, 400))
    lines = [f"{m // 60:02d}:{m % 60:02d},{rng.choice(names)},{rng.uniform(0, 150):.1f}" for m in minutes.tolist()]
    whole = parse_record("1.txt", "1", record(1, *lines))
    half = next(i for i in range(200, 400) if minutes[i] != minutes[i - 1])
    for begun in parse_record("1.txt", "1", record(1, *lines[:half])):
        complete = stream_of(whole, begun.modality)
        np.testing.assert_array_equal(begun.frames, complete.frames[: len(begun.frames)])
        np.testing.assert_array_equal(begun.times_s, complete.times_s[: len(begun.times_s)])


def test_lines_out_of_order_are_put_in_order_and_the_last_of_one_minute_counts() -> None:
    lines = ("02:00,HR,104", "01:00,HR,86", "02:00,HR,68")
    assert frames_of(*lines, modality="vitals", variable="HR") == [[0, 1, 0], [-1, 1, 0]]


def test_the_patient_is_known_part_by_part() -> None:
    streams = parse_record("1.txt", "1", record(1, descriptors=("Age,84.5", "Gender,1", "Height,-1", "ICUType,2")))
    assert streams[0].frames.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0]]
    assert not patient_frame({}).any()


def test_the_weight_on_admission_is_the_patients_and_later_ones_are_measurements() -> None:
    text = record(1, "00:00,Weight,105", "05:00,Weight,105").replace("00:00,Weight,-1", "00:00,Weight,57")
    streams = parse_record("1.txt", "1", text)
    assert streams[0].frames[0, 6:8].tolist() == [-1, 1]
    vitals = stream_of(streams, "vitals")
    assert vitals.times_s.tolist() == [0, 5 * 3600]
    assert vitals.frames[:, columns("vitals", "Weight")].tolist() == [[1, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("modality", "line", "as_if"),
    [
        ("labs", "pH,735", "pH,7.35"),
        ("labs", "pH,73.5", "pH,7.35"),
        ("neuro", "FiO2,40", "FiO2,0.4"),
        ("vitals", "Temp,98.6", "Temp,37"),
    ],
)
def test_known_slips_are_repaired(modality: str, line: str, as_if: str) -> None:
    variable = line.split(",")[0]
    repaired, meant = (frames_of(f"01:00,{text}", modality=modality, variable=variable) for text in (line, as_if))
    assert repaired == meant


def test_heights_in_metres_or_converted_from_inches_twice_are_repaired() -> None:
    heights = [patient_frame({"Height": height})[0, 4:6].tolist() for height in (170.0, 1.7, 431.8, 13.0, -1.0)]
    assert heights == [pytest.approx([0, 1], abs=1e-6)] * 3 + [[0, 0]] * 2


JUNK = (
    "Temp,-17.8",
    "Temp,0",
    "HR,-1",
    "HR,0",
    "pH,0",
    "pH,187",
    "SysABP,0",
    "PaO2,0",
    "FiO2,0",
    "Weight,-1",
    "Mg,nan",
)


@pytest.mark.parametrize("line", [*JUNK, "K,inf", "WBC,1e300"])
def test_the_implausible_counts_as_not_measured(line: str) -> None:
    assert [s.stream for s in parse_record("1.txt", "1", record(1, f"01:00,{line}"))] == ["patient"]


def test_heavy_tails_are_made_light_and_everything_plausible_stays_near_one_spread() -> None:
    for variables in (PATIENT, VITALS, LABS, NEURO):
        ends = np.array([[variable.lowest, variable.highest] for variable in variables], np.float64)
        places = np.repeat(np.arange(len(variables)), 2)
        scaled = Scaling(variables)(places, ends.reshape(-1))
        assert np.isfinite(scaled).all()
        assert np.abs(scaled).max() < 30


def test_the_rules_agree_with_each_other() -> None:
    ranges = {variable.name: variable for variables in (PATIENT, *MEASURED.values()) for variable in variables}
    for repair in REPAIRS:
        plausible = ranges[repair.name]
        assert repair.lowest > plausible.highest or repair.highest < plausible.lowest
        for end in (repair.lowest, repair.highest):
            assert plausible.lowest <= round(end * repair.factor + repair.shift, 9) <= plausible.highest
    for variable in ranges.values():
        typical = math.expm1(variable.typical) if variable.log else variable.typical
        assert variable.lowest <= typical <= variable.highest


def test_lines_without_a_parameter_and_empty_lines_are_passed_over() -> None:
    streams = parse_record("1.txt", "1", record(1, "01:00,,", "01:00,,5", "", "02:00,HR,86"))
    assert [s.times_s.tolist() for s in streams] == [[0.0], [7200.0]]


@pytest.mark.parametrize(
    "line", ["01:00,HR", "01:00,HR,x", "01:60,HR,80", "1,HR,80", "-1:00,HR,80", "01:00,Charm,5", "01:00,HR,80,90"]
)
def test_a_line_that_is_no_measurement_is_refused_with_file_and_line(line: str) -> None:
    with pytest.raises(Physionet2012DataError, match=f"set-a/1.txt: '{line}'"):
        parse_record("set-a/1.txt", "1", record(1, line))


def test_a_record_under_another_name_is_refused() -> None:
    with pytest.raises(Physionet2012DataError, match="RecordID"):
        parse_record("2.txt", "2", record(1))


@pytest.mark.parametrize("table", ["", "a,b\n1,2\n", OUTCOMES_HEAD + "1,2\n", OUTCOMES_HEAD + "1,6,1,5,-1,2\n"])
def test_outcomes_of_another_layout_are_refused(table: str) -> None:
    with pytest.raises(Physionet2012DataError, match="In-hospital_death"):
        parse_outcomes("Outcomes-a.txt", table)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"readme.txt": "nothing"}, "has no set-X"),
        ({"set-a/1.txt": record(1)}, r"no Outcomes-a\.txt"),
        ({"set-a/1.txt": record(1), "./set-a/1.txt": record(1), "Outcomes-a.txt": outcomes()}, "twice"),
        ({"set-a/1.txt": record(1, "00:01,HR,é"), "Outcomes-a.txt": outcomes()}, "ASCII"),
    ],
    ids=["nothing", "no outcomes", "twice", "no ascii"],
)
def test_an_archive_of_another_layout_is_refused_with_the_reason(files: Files, reason: str, tmp_path: Path) -> None:
    with pytest.raises(Physionet2012DataError, match=reason):
        read_physionet_2012(write(tmp_path / "physionet-2012.tar", files))


def test_without_a_path_the_error_says_where_to_give_it() -> None:
    with pytest.raises(Physionet2012DataError, match="--data"):
        physionet_2012_dataset(None)
