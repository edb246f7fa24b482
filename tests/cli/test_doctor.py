import json

from esamp.cli import doctor


def test_doctor_reports_and_the_self_test_passes(run):
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["packages"]["torch"]
    assert report["backends"]["transformers"] == "ready"
    assert report["self_test"]["cpu"]["error"] is None


def test_doctor_fails_when_steering_does_not_work(run, monkeypatch):
    from esamp.explorer import Explorer

    monkeypatch.setattr(Explorer, "learn", lambda self, step, tokens: None)
    code, out, err = run("doctor")
    assert code == 1
    assert "does not learn" in " ".join(out.split())
    assert "steering fails on cpu" in err


def test_without_transformers_doctor_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr(doctor, "has", lambda module: False)
    code, out, _ = run("doctor", "--json")
    assert code == 0
    report = json.loads(out)
    assert "pip install" in report["backends"]["transformers"]
    assert report["self_test"] == {}
