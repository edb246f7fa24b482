def test_a_folder_with_something_in_it_is_left_alone(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = run("demo-model", str(tmp_path))
    assert code == 2
    assert "is not empty" in err
    assert (tmp_path / "notes.txt").read_text() == "mine"
